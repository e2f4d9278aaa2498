#include "data/synth.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "data/hdf5.h"
#include "data/writer.h"

namespace strata::data {
namespace {

constexpr double child_given_parent = 0.3;
constexpr double member_given_group = 0.25;
constexpr std::int64_t group_size = 4;
constexpr double most_frequent = 0.9;

// Streams of random numbers beside those of the rows, which are numbered from 0.
constexpr std::uint64_t direction_streams = std::uint64_t{1} << 62;
constexpr std::uint64_t mean_stream = direction_streams - 1;
constexpr std::uint64_t order_stream = direction_streams - 2;

void unit_vector(Random random, std::span<float> out) {
    double squared = 0;
    for (float& v : out) {
        v = random.normal();
        squared += static_cast<double>(v) * v;
    }
    for (float& v : out) v = static_cast<float>(v / std::sqrt(squared));
}

void check(const SynthConfig& c) {
    if (c.rows < 1) refuse("rows: {} is too few; at least 1", c.rows);
    if (c.n < 1) refuse("n: {} is too few; at least 1", c.n);
    if (c.features < 1) refuse("features: {} are too few; at least 1", c.features);
    if (!(c.active > 0))
        refuse("active: {} is not a mean number of features per row; expected more than 0", c.active);
    if (!(c.power >= 0) || !(c.spread >= 0) || !(c.noise >= 0))
        refuse("power, spread and noise cannot be negative");
    if (!(c.grouped >= 0 && c.children >= 0 && c.grouped + 2 * c.children <= 1))
        refuse(
            "grouped {} and children {}: these are shares of the features, and each child needs a parent of "
            "its own: "
            "grouped + 2 children may be 1 at most",
            c.grouped, c.children);
    if (!(c.mean >= 0 && c.mean < 1))
        refuse("mean: {} is not a share of the energy; expected 0 to below 1", c.mean);
}

}  // namespace

// Features in this order: parents, their children, members of groups, the rest. Ranks of frequency are dealt
// at random to parents, groups and the rest.
Truth make_truth(const SynthConfig& config) {
    check(config);
    const auto count = static_cast<std::size_t>(config.features), n = static_cast<std::size_t>(config.n);
    const auto families = static_cast<std::size_t>(config.children * static_cast<double>(count));
    const auto groups = static_cast<std::size_t>(config.grouped * static_cast<double>(count)) / group_size;
    Truth truth;
    truth.directions.resize(count * n);
    truth.mean.resize(n);
    truth.probabilities.resize(count);
    truth.parent.assign(count, -1);
    truth.group.assign(count, -1);
    for (std::size_t i = 0; i < count; ++i)
        unit_vector(Random(config.seed, Purpose::synthetic, direction_streams + i),
                    std::span(truth.directions).subspan(i * n, n));

    const std::size_t units = count - families - groups * group_size + groups;
    std::vector<double> weights(units);
    for (std::size_t u = 0; u < units; ++u) weights[u] = std::pow(static_cast<double>(u + 1), -config.power);
    shuffle(std::span(weights), Random(config.seed, Purpose::synthetic, order_stream));
    std::size_t unit = 0;
    for (std::size_t i = 0; i < families; ++i) {
        truth.parent[families + i] = static_cast<std::int64_t>(i);
        truth.probabilities[i] = weights[unit++];
        truth.probabilities[families + i] = child_given_parent * truth.probabilities[i];
    }
    for (std::size_t i = 2 * families; i < count; ++i) {
        const std::size_t member = i - 2 * families;
        if (member < groups * group_size) truth.group[i] = static_cast<std::int64_t>(member / group_size);
        const bool goes_on = truth.group[i] >= 0 && member % group_size != 0;
        truth.probabilities[i] = goes_on ? truth.probabilities[i - 1] : weights[unit++];
    }
    const double total = std::accumulate(truth.probabilities.begin(), truth.probabilities.end(), 0.0);
    for (std::size_t i = 0; i < count; ++i) {
        double& p = truth.probabilities[i];
        p *= config.active / total;
        if (p > most_frequent * (truth.group[i] >= 0 ? member_given_group : 1))
            refuse(
                "active: {} features per row are too many for {} features, one would fire in {:.2f} of the "
                "rows; give more "
                "features, fewer active ones or a smaller power",
                config.active, count, p);
    }

    const double energy =
        config.active * std::exp(2 * config.spread * config.spread);  // of the features' sum, about
    truth.noise = config.noise * std::sqrt(energy / static_cast<double>(n));
    unit_vector(Random(config.seed, Purpose::synthetic, mean_stream), truth.mean);
    const double length = std::sqrt(config.mean / (1 - config.mean) * energy);
    for (float& v : truth.mean) v = static_cast<float>(v * length);
    return truth;
}

void make_rows(const SynthConfig& config, const Truth& truth, std::int64_t first, std::span<float> out,
               std::span<std::uint64_t> fired) {
    const auto n = static_cast<std::size_t>(config.n);
    const auto count = truth.probabilities.size();
    std::vector<char> on(count);
    std::vector<double> threshold(count);  // the probability given the parent or the group
    for (std::size_t i = 0; i < count; ++i)
        threshold[i] = truth.parent[i] >= 0  ? child_given_parent
                       : truth.group[i] >= 0 ? member_given_group
                                             : truth.probabilities[i];
    for (std::size_t r = 0; r * n < out.size(); ++r) {
        Random random(config.seed, Purpose::synthetic, static_cast<std::uint64_t>(first) + r);
        const auto row = out.subspan(r * n, n);
        std::ranges::copy(truth.mean, row.begin());
        bool group_on = false;
        for (std::size_t i = 0; i < count; ++i) {
            const bool opens_group = truth.group[i] >= 0 && (i == 0 || truth.group[i] != truth.group[i - 1]);
            if (opens_group) group_on = random.uniform() < truth.probabilities[i] / member_given_group;
            const bool may = truth.parent[i] >= 0 ? on[static_cast<std::size_t>(truth.parent[i])] != 0
                                                  : truth.group[i] < 0 || group_on;
            on[i] = static_cast<char>(random.uniform() < threshold[i] && may);
        }
        for (std::size_t i = 0; i < count; ++i) {
            if (on[i] == 0) continue;
            if (!fired.empty()) ++fired[i];
            const float magnitude = std::exp(static_cast<float>(config.spread) * random.normal());
            const float* const direction = &truth.directions[i * n];
            for (std::size_t j = 0; j < n; ++j) row[j] += magnitude * direction[j];
        }
        if (truth.noise > 0)
            for (float& v : row) v += static_cast<float>(truth.noise) * random.normal();
    }
}

void write_synthetic(const std::filesystem::path& path, const SynthConfig& config,
                     const std::function<void(std::int64_t)>& progress) {
    constexpr std::int64_t block = 4096;
    const Truth truth = make_truth(config);
    Writer writer(path);
    const std::size_t dataset =
        writer.add({"resid_post/0", config.n, config.type, "synthetic", "resid_post", 0});
    Array<float> rows(static_cast<std::size_t>(block * config.n));
    std::vector<std::uint64_t> fired(truth.probabilities.size());
    for (std::int64_t done = 0; done < config.rows;) {
        const std::int64_t count = std::min(block, config.rows - done);
        const auto some = std::span<float>(rows).first(static_cast<std::size_t>(count * config.n));
        make_rows(config, truth, done, some, fired);
        writer.append(dataset, some);
        done += count;
        if (progress) progress(done);
    }
    std::vector<float> frequencies;
    for (const std::uint64_t rows_fired : fired)
        frequencies.push_back(
            static_cast<float>(static_cast<double>(rows_fired) / static_cast<double>(config.rows)));
    writer.put("true_features", {config.features, config.n}, truth.directions);
    writer.put("true_frequencies", {config.features}, frequencies);
    writer.put("true_mean", {config.n}, truth.mean);
    writer.put_text(
        "made_by",
        fmt::format(
            "strata data synth --rows {} --n {} --features {} --active {} --seed {} --dtype {} --power {} "
            "--spread {} --grouped {} --children {} --noise {} --mean {}",
            config.rows, config.n, config.features, config.active, config.seed, name_of(config.type),
            config.power, config.spread, config.grouped, config.children, config.noise, config.mean));
    writer.finish();
}

std::vector<float> true_features_of(const Dataset& dataset) {
    const std::string& path = dataset.parts.front().path;
    const Hdf5Lock lock;
    const Handle file = open_file(path);
    if (H5Lexists(file.get(), "true_features", H5P_DEFAULT) <= 0) return {};
    const Handle features = open_dataset(file.get(), "true_features");
    const Handle space(features ? H5Dget_space(features.get()) : H5I_INVALID_HID);
    std::array<hsize_t, 2> size{};
    if (!space || H5Sget_simple_extent_ndims(space.get()) != 2 ||
        H5Sget_simple_extent_dims(space.get(), size.data(), nullptr) != 2 ||
        size[1] != static_cast<hsize_t>(dataset.n))
        fail("{}: true_features: not a dataset [features, {}]", path, dataset.n);
    std::vector<float> values(size[0] * size[1]);
    if (!read_rows(features.get(), H5T_NATIVE_FLOAT, 0, static_cast<std::int64_t>(size[0]), dataset.n,
                   values.data()))
        fail("{}: true_features: cannot be read: {}", path, hdf5_reason());
    return values;
}

double recovered_share(std::span<const float> true_features, std::span<const float> decoder, std::int64_t n,
                       double cosine) {
    const auto width = static_cast<std::size_t>(n);
    STRATA_ASSERT(n > 0 && true_features.size() % width == 0 && decoder.size() % width == 0);
    const auto dot = [&](const float* a, const float* b) {
        double sum = 0;
        for (std::size_t i = 0; i < width; ++i) sum += static_cast<double>(a[i]) * b[i];
        return sum;
    };
    std::vector<double> lengths;
    for (std::size_t m = 0; m < decoder.size(); m += width)
        lengths.push_back(std::sqrt(dot(&decoder[m], &decoder[m])));
    const std::size_t features = true_features.size() / width;
    std::size_t found = 0;
    for (std::size_t f = 0; f < features; ++f) {
        const float* const feature = &true_features[f * width];
        const double length = std::sqrt(dot(feature, feature));
        bool matched = false;
        for (std::size_t m = 0; m < lengths.size() && !matched; ++m)
            matched = length > 0 && lengths[m] > 0 &&
                      dot(feature, &decoder[m * width]) >= cosine * length * lengths[m];
        found += matched ? 1 : 0;
    }
    return features == 0 ? 0 : static_cast<double>(found) / static_cast<double>(features);
}

}  // namespace strata::data
