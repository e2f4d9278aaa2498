#include "data/check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <string_view>

#include "base/error.h"
#include "data/convert.h"
#include "data/inspect.h"

namespace strata::data {
namespace {

constexpr std::size_t most_failures = 20;
constexpr std::int64_t most_hashes = std::int64_t{1} << 26;
constexpr double sink_ratio = 10;
constexpr std::int64_t most_bytes_per_read = std::int64_t{64} << 20;

// Counts of norms by the leading bits of their float32: bins of a relative width of 1/2048, in constant
// memory.
class NormHistogram {
  public:
    void add(double norm) { ++counts_[bin_of(norm)]; }
    double median(std::int64_t rows) const {
        std::int64_t below = 0;
        std::size_t bin = 0;
        while (bin + 1 < counts_.size() && (below += counts_[bin]) <= rows / 2) ++bin;
        return static_cast<double>(
            std::bit_cast<float>(static_cast<std::uint32_t>(bin) << shift | 1U << (shift - 1)));
    }
    std::int64_t above(double norm) const {
        std::int64_t count = 0;
        for (std::size_t bin = bin_of(norm) + 1; bin < counts_.size(); ++bin) count += counts_[bin];
        return count;
    }

  private:
    static constexpr int shift = 12;
    static std::size_t bin_of(double norm) {
        const double largest = static_cast<double>(std::numeric_limits<float>::max());
        return std::bit_cast<std::uint32_t>(static_cast<float>(std::min(norm, largest))) >> shift;
    }
    std::vector<std::int64_t> counts_ = std::vector<std::int64_t>(std::size_t{1} << (31 - shift));
};

// Hashes of rows, or of those below a bound when there are too many: equal rows are in the sample together.
class Hashes {
  public:
    explicit Hashes(std::int64_t rows) {
        while (rows >> halvings_ > most_hashes) ++halvings_;
        kept_.reserve(static_cast<std::size_t>(rows >> halvings_));
    }
    void add(std::span<const std::byte> row) {
        const std::uint64_t hash =
            std::hash<std::string_view>()({reinterpret_cast<const char*>(row.data()), row.size()});
        if (halvings_ == 0 || hash >> (64 - halvings_) == 0) kept_.push_back(hash);
    }
    std::int64_t duplicates() {
        std::ranges::sort(kept_);
        const auto distinct = std::unique(kept_.begin(), kept_.end()) - kept_.begin();
        return (static_cast<std::int64_t>(kept_.size()) - distinct) << halvings_;
    }
    bool sampled() const { return halvings_ > 0; }

  private:
    int halvings_ = 0;
    std::vector<std::uint64_t> kept_;
};

struct Checker {
    const Dataset& dataset;
    CheckReport report{};
    NormHistogram norms{};
    Hashes hashes{dataset.rows};
    std::int64_t finite_rows = 0;
    std::vector<float> values = std::vector<float>(static_cast<std::size_t>(dataset.n));

    void non_finite(std::int64_t row) {
        ++report.non_finite_rows;
        for (std::size_t i = 0; i < values.size(); ++i) {
            if (std::isfinite(values[i])) continue;
            if (report.non_finite_values++ == 0)
                report.first_non_finite =
                    fmt::format("{}, element {}: {}", place_of(dataset, row), i, values[i]);
        }
    }

    void look_at(Type type, std::span<const std::byte> raw, std::int64_t row) {
        double squared = static_cast<double>(sum_of_squares(type, raw));
        // Beyond float32, or too small for it: by element, in double.
        if (!std::isfinite(squared) || squared < 1e-30) {
            to_float(type, raw, values);
            squared = 0;
            for (const float v : values) squared += static_cast<double>(v) * v;
            if (!std::isfinite(squared)) return non_finite(row);
        }
        if (squared == 0)
            ++report.zero_rows;
        else
            hashes.add(raw);
        const double norm = std::sqrt(squared);
        report.min_norm = finite_rows == 0 ? norm : std::min(report.min_norm, norm);
        report.max_norm = std::max(report.max_norm, norm);
        report.mean_square += squared;
        norms.add(norm);
        ++finite_rows;
    }

    void finish() {
        report.rows = dataset.rows;
        if (finite_rows > 0) {
            report.mean_square /= static_cast<double>(finite_rows);
            report.median_norm = std::clamp(norms.median(finite_rows), report.min_norm, report.max_norm);
            report.sinks = norms.above(sink_ratio * report.median_norm);
        }
        report.duplicate_rows = hashes.duplicates();
        report.duplicates_estimated = hashes.sampled();
        const auto without = std::ranges::count(dataset.parts, false, &FilePart::checksummed);
        if (without > 0)
            report.notes.push_back(
                fmt::format("{} of {} files have no checksum, so changed values cannot be noticed there; "
                            "h5py writes one with fletcher32=True",
                            without, dataset.parts.size()));
        double told = 0;
        std::int64_t told_rows = 0;
        for (const FilePart& part : dataset.parts) {
            if (part.mean_sq_norm < 0) continue;
            told += part.mean_sq_norm * static_cast<double>(part.rows);
            told_rows += part.rows;
        }
        if (told_rows == dataset.rows && report.unreadable_rows == 0 && report.non_finite_rows == 0 &&
            std::abs(told / static_cast<double>(told_rows) - report.mean_square) > 0.01 * report.mean_square)
            report.notes.push_back(fmt::format("the attribute mean_sq_norm says {:.6g}, the rows have {:.6g}",
                                               told / static_cast<double>(told_rows), report.mean_square));
    }
};

}  // namespace

Survey survey(const std::vector<std::string>& file_patterns, const std::vector<std::string>& name_patterns) {
    Survey result;
    std::map<std::string, Dataset, bool (*)(const std::string&, const std::string&)> datasets(natural_less);
    std::vector<bool> found(name_patterns.size());
    for (const std::string& path : expand_files(file_patterns, result.problems)) try {
            const Handle file = open_file(path);
            for (const std::string& name : dataset_names(file)) {
                const auto entry = describe(file, path, name);
                bool wanted = false;
                for (std::size_t i = 0; i < name_patterns.size(); ++i) {
                    const std::string pattern = tidy_name(name_patterns[i]);
                    const bool glob = is_glob(pattern);
                    if (glob ? !matches_name(pattern, name) : pattern != name) continue;
                    wanted = wanted || !glob || (entry && is_activations(*entry));
                    found[i] = true;
                }
                if (!wanted || !entry) continue;
                Dataset& dataset = datasets[name];
                if (!entry->problem.empty()) {
                    result.problems.push_back(fmt::format("{}: {} {}", path, name, entry->problem));
                } else if (!dataset.parts.empty() && dataset.n != entry->shape[1]) {
                    result.problems.push_back(fmt::format("{}: {} has n = {}, but {} in {}", path, name,
                                                          entry->shape[1], dataset.n, dataset.parts[0].path));
                } else {
                    dataset.name = name;
                    dataset.n = entry->shape[1];
                    dataset.parts.push_back(entry->part);
                    dataset.parts.back().first = dataset.rows;
                    dataset.rows += entry->part.rows;
                }
            }
        } catch (const UsageError& error) {
            result.problems.emplace_back(error.what());
        }
    for (std::size_t i = 0; i < found.size(); ++i)
        if (!found[i] && result.problems.empty())
            result.problems.push_back(
                fmt::format("{}: no dataset of this name in the files", name_patterns[i]));
    for (auto& [name, dataset] : datasets)
        if (!dataset.parts.empty()) result.datasets.push_back(std::move(dataset));
    return result;
}

CheckReport check(const Dataset& dataset, const std::function<void(std::int64_t)>& progress) {
    Checker checker{dataset};
    Reader reader(dataset);
    std::vector<std::byte> raw;
    for (const FilePart& part : dataset.parts) {
        // Chunk by chunk, so that a damaged one takes no others with it.
        const std::int64_t row_bytes = dataset.n * static_cast<std::int64_t>(size_of(part.type));
        const std::int64_t step = std::max<std::int64_t>(
            1, std::min(part.chunk_rows > 0 ? part.chunk_rows : 1024, most_bytes_per_read / row_bytes));
        for (std::int64_t done = 0; done < part.rows; done += step) {
            const std::int64_t rows = std::min(step, part.rows - done), first = part.first + done;
            raw.resize(static_cast<std::size_t>(rows * row_bytes));
            try {
                reader.read_raw(first, rows, raw);
                for (std::int64_t r = 0; r < rows; ++r)
                    checker.look_at(
                        part.type,
                        std::span<const std::byte>(raw).subspan(static_cast<std::size_t>(r * row_bytes),
                                                                static_cast<std::size_t>(row_bytes)),
                        first + r);
            } catch (const RunError& error) {
                checker.report.unreadable_rows += rows;
                if (checker.report.failures.size() < most_failures)
                    checker.report.failures.emplace_back(error.what());
            }
            if (progress) progress(first + rows);
        }
    }
    checker.finish();
    return std::move(checker.report);
}

}  // namespace strata::data
