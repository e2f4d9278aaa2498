#include "data/fit.h"

#include <gmock/gmock.h>
#include <omp.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "comm/self.h"
#include "data/files.h"
#include "data/threads.h"
#include "support/log.h"

namespace strata::data {
namespace {

constexpr std::int64_t n = 7, rows = 16 * n;  // all of them are sampled
constexpr std::size_t size = n;

// Correlated rows, targets of them and of noise; one row over the limit, one target that is not finite.
bool is_left_out(std::int64_t row) {
    return row == 20 || row == 31;
}

std::vector<float> input_row(std::int64_t row) {
    Random random(1, Purpose::synthetic, static_cast<std::uint64_t>(row));
    std::vector<float> x(size);
    for (std::size_t c = 0; c < size; ++c) x[c] = random.normal() + (c > 0 ? 0.5F * x[c - 1] : 5.0F);
    return x;
}

std::vector<float> target_row(const std::vector<float>& x, std::int64_t row) {
    Random random(2, Purpose::synthetic, static_cast<std::uint64_t>(row));
    std::vector<float> y(size);
    for (std::size_t c = 0; c < size; ++c) y[c] = 3 * x[(c + 2) % size] - x[c] + random.normal() - 4;
    return y;
}

Dataset dataset_in(const Folder& folder) {
    write_paired(folder / "a.h5", "r/0", Type::float32, "t/0", Type::float32, 0, rows, n,
                 [](std::int64_t row, std::vector<float>& x, std::vector<float>& y) {
                     x = input_row(row);
                     y = target_row(x, row);
                     if (row == 20) x[0] = 1e6F;
                     if (row == 31) y[2] = std::nanf("");
                 });
    return find_datasets({folder / "a.h5"}, {"r/0"}, "t/0", true)[0];
}

// Gauss-Jordan on (C + ridge) map = cross.
std::vector<double> solved(std::vector<double> c, std::vector<double> map) {
    for (std::size_t p = 0; p < size; ++p) {
        const double pivot = c[p * size + p];
        for (std::size_t i = 0; i < size; ++i) c[p * size + i] /= pivot, map[p * size + i] /= pivot;
        for (std::size_t r = 0; r < size; ++r) {
            const double factor = c[r * size + p];
            for (std::size_t i = 0; i < size && r != p; ++i) {
                c[r * size + i] -= factor * c[p * size + i];
                map[r * size + i] -= factor * map[p * size + i];
            }
        }
    }
    return map;
}

struct Expected {
    std::vector<double> map;
    double mean_square = 0;
};

Expected expected_fit(const InputStatistics& statistics) {
    std::vector<double> xx(size * size), xy(size * size);
    for (std::int64_t row = 0; row < rows; ++row) {
        if (is_left_out(row)) continue;
        const std::vector<float> x = input_row(row), y = target_row(x, row);
        for (std::size_t i = 0; i < size; ++i)
            for (std::size_t j = 0; j < size; ++j) {
                const double from_mean = x[i] - statistics.mean[i];
                xx[i * size + j] += from_mean * (x[j] - statistics.mean[j]) / (rows - 2);
                xy[i * size + j] += from_mean * (y[j] - statistics.target_mean[j]) / (rows - 2);
            }
    }
    double trace = 0;
    for (std::size_t i = 0; i < size; ++i) trace += xx[i * size + i];
    std::vector<double> left = xx;
    for (std::size_t i = 0; i < size; ++i) left[i * size + i] += 1e-3 * trace / n;
    Expected expected{.map = solved(left, xy)};
    for (std::size_t i = 0; i < size; ++i)
        for (std::size_t j = 0; j < size; ++j)
            for (std::size_t c = 0; c < size; ++c)
                expected.mean_square +=
                    expected.map[i * size + c] * xx[i * size + j] * expected.map[j * size + c];
    return expected;
}

TEST(Fit, IsTheLeastSquaresMapAtAnyNumberOfRanks) {
    const Folder folder;
    const test::Logged logged;
    const Dataset dataset = dataset_in(folder);
    DataConfig config;
    config.eval_rows = 0;
    config.max_norm_ratio = 10;
    for (const int ranks : {1, 2, 3, 4})
        on_threads(ranks, [&](Communicator& comm) {
            const InputStatistics statistics = measure(dataset, config, comm);
            const TargetFit fit = fit_target(dataset, config, statistics, comm);
            const Expected expected = expected_fit(statistics);
            ASSERT_EQ(fit.map.size(), expected.map.size());
            for (std::size_t i = 0; i < fit.map.size(); ++i)
                EXPECT_NEAR(fit.map[i], expected.map[i], 2e-6) << ranks << " ranks: " << i;
            EXPECT_NEAR(fit.mean_square, expected.mean_square, 1e-5 * expected.mean_square) << ranks;
            EXPECT_NEAR(fit.map[6 * size + 4], 3, 0.4)
                << "targets are 3 times the element after next, and noise";
        });
}

// By one rank, all rows being for training.
TargetFit fit_alone(const std::string& path) {
    const Dataset dataset = find_datasets({path}, {"r/0"}, "t/0")[0];
    DataConfig config;
    config.eval_rows = 0;
    const auto comm = make_self_communicator();
    return fit_target(dataset, config, measure(dataset, config, *comm), *comm);
}

// Wide enough for products in several blocks and sums in several pieces.
TEST(Fit, HasTheSameBitsAtAnyNumberOfThreadsAndWhateverCachesAreFound) {
    constexpr std::int64_t wide = 400, all = 3000;
    const Folder folder;
    write_paired(folder / "a.h5", "r/0", Type::float32, "t/0", Type::float32, 0, all, wide,
                 [](std::int64_t row, std::vector<float>& x, std::vector<float>& y) {
                     Random random(1, Purpose::synthetic, static_cast<std::uint64_t>(row));
                     for (std::vector<float>* to : {&x, &y})
                         for (float& value : *to) value = random.normal();
                 });
    const test::Logged logged;
    const int threads_before = omp_get_max_threads();
    std::vector<float> map;
    double mean_square = 0;
    for (const int threads : {1, 2, 3}) {
        omp_set_num_threads(threads);
        Eigen::setCpuCacheSizes(threads * 16 << 10, 1 << 20, 8 << 20);
        const TargetFit fit = fit_alone(folder / "a.h5");
        if (map.empty()) {
            map.assign(fit.map.begin(), fit.map.end());
            mean_square = fit.mean_square;
        }
        EXPECT_TRUE(std::ranges::equal(fit.map, map)) << threads << " threads";
        EXPECT_EQ(fit.mean_square, mean_square) << threads << " threads";
    }
    omp_set_num_threads(threads_before);
}

TEST(Fit, SaysWhichValuesAreTooLarge) {
    const Folder folder;
    write_paired(folder / "a.h5", "r/0", Type::float32, "t/0", Type::float32, 0, rows, n,
                 [](std::int64_t row, std::vector<float>& x, std::vector<float>& y) {
                     x = input_row(row);
                     y = target_row(x, row);
                     for (float& value : x) value *= 1e4F;
                     for (float& value : y) value *= 1e36F;
                 });
    const test::Logged logged;
    EXPECT_THAT(thrown<RunError>([&] { fit_alone(folder / "a.h5"); }),
                testing::AllOf(testing::HasSubstr("r/0"), testing::HasSubstr("t/0")));
}

}  // namespace
}  // namespace strata::data
