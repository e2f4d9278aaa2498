#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "data/convert.h"
#include "data/norm.h"
#include "data/sample.h"
#include "data/stream.h"

namespace strata::data {
namespace {

constexpr std::int64_t most_samples = 65536;

// The sum over ranks of `width` numbers for each share, added in the order of the shares.
std::vector<double> total(std::vector<double>& sums, std::size_t width, Communicator& comm) {
    comm.sum(sums);
    std::vector<double> result(width);
    for (std::size_t share = 0; share < sample_shares; ++share)
        for (std::size_t i = 0; i < width; ++i) result[i] += sums[share * width + i];
    return result;
}

[[noreturn]] void fail_as_corrupt(const Dataset& dataset, std::int64_t samples) {
    fail(
        "{}: all {} sampled rows are corrupt; `strata data check` tells what is wrong with the files: "
        "restore "
        "them or leave them out",
        dataset.name, samples);
}

// The mean of the usable targets of the samples within the limit; `within` by sample, for those of this rank.
std::vector<double> target_mean(const Dataset& target, const Sample& sample, const std::vector<bool>& within,
                                Communicator& comm) {
    Reader reader(target);
    const auto n = static_cast<std::size_t>(target.n);
    const std::size_t width = n + 1;  // per share: the sum of the rows, their number
    std::vector<double> sums(sample_shares * width);
    std::vector<float> values(n);
    sample.visit(
        target, reader, comm.rank(), comm.size(),
        [&](std::int64_t share, std::int64_t i, std::int64_t row, std::span<const std::byte> raw, Type type) {
            if (!is_usable(type, raw, target, row) || !within[static_cast<std::size_t>(i)]) return;
            double* const to = &sums[static_cast<std::size_t>(share) * width];
            to_float(type, raw, values);
            for (std::size_t c = 0; c < n; ++c) to[c] += static_cast<double>(values[c]);
            to[n] += 1;
        });
    std::vector<double> mean = total(sums, width, comm);
    const double count = mean.back();
    mean.pop_back();
    if (count == 0) fail_as_corrupt(target, sample.samples());
    for (double& value : mean) value /= count;
    return mean;
}

double scale_for(const DataConfig& config, double mean_square, const Dataset& dataset, std::int64_t sampled) {
    if (config.scale == "none") return 1;
    if (config.scale == "mean_square" || config.scale == "sqrt_dim") {
        if (mean_square == 0)
            fail(
                "{}: all {} sampled rows are zero, so no scale can be measured; the file was probably never "
                "filled "
                "(`strata data check` tells), or set data.scale: none",
                dataset.name, sampled);
        const double wanted = config.scale == "sqrt_dim" ? static_cast<double>(dataset.n) : 1.0;
        return std::sqrt(wanted / mean_square);
    }
    double value = 0;
    const char* const end = config.scale.data() + config.scale.size();
    const auto parsed = std::from_chars(config.scale.data(), end, value);
    if (parsed.ec != std::errc() || parsed.ptr != end || !std::isfinite(value) || value <= 0)
        refuse("data.scale: `{}` is not one of mean_square, sqrt_dim, none, nor a positive number",
               config.scale);
    return value;
}

}  // namespace

InputStatistics measure(const Dataset& dataset, const DataConfig& config, Communicator& comm) {
    const Sample sample(training_rows(dataset, config), most_samples);
    Reader reader(dataset);
    InputStatistics result;

    // Each number is one rank's and zero elsewhere, so the sum only collects. NaN: a corrupt row.
    std::vector<double> norms(static_cast<std::size_t>(sample.samples()));
    sample.visit(
        dataset, reader, comm.rank(), comm.size(),
        [&](std::int64_t, std::int64_t i, std::int64_t row, std::span<const std::byte> raw, Type type) {
            norms[static_cast<std::size_t>(i)] = std::sqrt(squared_norm(type, raw, dataset, row));
        });
    comm.sum(norms);
    std::erase_if(norms, [](double norm) { return std::isnan(norm); });
    if (norms.empty()) fail_as_corrupt(dataset, sample.samples());
    result.sampled_rows = std::ssize(norms);
    const auto middle = norms.begin() + static_cast<std::ptrdiff_t>(norms.size() / 2);
    std::nth_element(norms.begin(), middle, norms.end());
    result.median_norm = *middle;
    result.norm_limit = config.max_norm_ratio * result.median_norm;

    // Per share: the sum of the rows, of their squares, their number.
    const auto n = static_cast<std::size_t>(dataset.n);
    const std::size_t width = n + 2;
    std::vector<double> sums(sample_shares * width);
    std::vector<float> values(n);
    std::vector<bool> within(static_cast<std::size_t>(sample.samples()));
    sample.visit(
        dataset, reader, comm.rank(), comm.size(),
        [&](std::int64_t share, std::int64_t s, std::int64_t row, std::span<const std::byte> raw, Type type) {
            const double squared = squared_norm(type, raw, dataset, row);
            if (std::isnan(squared) || !within_limit(squared, result.norm_limit)) return;
            within[static_cast<std::size_t>(s)] = true;
            double* const to = &sums[static_cast<std::size_t>(share) * width];
            to_float(type, raw, values);
            for (std::size_t i = 0; i < n; ++i) to[i] += static_cast<double>(values[i]);
            to[n] += squared;
            to[n + 1] += 1;
        });
    const std::vector<double> all = total(sums, width, comm);
    const double count = all[n + 1];
    if (count == 0)
        refuse(
            "data.max_norm_ratio: {} leaves none of the {} sampled rows of {}; it is a multiple of the "
            "median norm, so "
            "take a number well above 1, or 0 to keep all rows",
            config.max_norm_ratio, result.sampled_rows, dataset.name);
    result.mean_square = all[n] / count;
    result.mean.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(n));
    for (double& value : result.mean) value /= count;
    if (dataset.target) result.target_mean = target_mean(*dataset.target, sample, within, comm);
    result.scale = scale_for(config, result.mean_square, dataset, result.sampled_rows);
    return result;
}

}  // namespace strata::data
