#include "data/fit.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "data/norm.h"
#include "data/sample.h"

namespace strata::data {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Square = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr double ridge = 1e-3;
constexpr std::int64_t samples_per_element = 16;

// Row x, then target y of each sample of a share, less their means; zero where either is left out. Returns
// how many are not.
std::int64_t read_share(const Dataset& dataset, const InputStatistics& statistics, const Sample& sample,
                        std::int64_t share, Rows& x, Rows& y) {
    const std::int64_t first = sample.first_of_share(share), n = dataset.n;
    const std::int64_t count = sample.first_of_share(share + 1) - first;
    x.setZero(count, n);
    y.setZero(count, n);
    std::vector<float> values(static_cast<std::size_t>(n));
    const auto fill = [&](Rows& rows, std::int64_t row, const std::vector<double>& mean) {
        for (std::int64_t c = 0; c < n; ++c) {
            const auto i = static_cast<std::size_t>(c);
            rows(row, c) = static_cast<float>(static_cast<double>(values[i]) - mean[i]);
        }
    };
    std::vector<bool> within(static_cast<std::size_t>(count));
    Reader reader(dataset);
    sample.visit_share(dataset, reader, share,
                       [&](std::int64_t i, std::int64_t row, std::span<const std::byte> raw, Type type) {
                           const double squared = squared_norm(type, raw, dataset, row);
                           if (std::isnan(squared) || !within_limit(squared, statistics.norm_limit)) return;
                           within[static_cast<std::size_t>(i - first)] = true;
                           to_float(type, raw, values);
                           fill(x, i - first, statistics.mean);
                       });
    std::int64_t used = 0;
    const Dataset& target = *dataset.target;
    Reader target_reader(target);
    sample.visit_share(target, target_reader, share,
                       [&](std::int64_t i, std::int64_t row, std::span<const std::byte> raw, Type type) {
                           if (!within[static_cast<std::size_t>(i - first)]) return;
                           if (!is_usable(type, raw, target, row)) {
                               x.row(i - first).setZero();
                               return;
                           }
                           to_float(type, raw, values);
                           fill(y, i - first, statistics.target_mean);
                           ++used;
                       });
    return used;
}

}  // namespace

TargetFit fit_target(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
                     Communicator& comm) {
    const Sample sample(training_rows(dataset, config), samples_per_element * dataset.n);
    const auto n = static_cast<Eigen::Index>(dataset.n);
    // Of the sums in float32 over a share few bits are lost in double, so that their order counts for little.
    Square xx = Square::Zero(n, n), xy = Square::Zero(n, n);
    Rows x, y, product;
    double used = 0;
    for (std::int64_t share = Sample::first_share(comm.rank(), comm.size());
         share < Sample::first_share(comm.rank() + 1, comm.size()); ++share) {
        used += static_cast<double>(read_share(dataset, statistics, sample, share, x, y));
        product.noalias() = x.transpose() * x;
        xx += product.cast<double>();
        product.noalias() = x.transpose() * y;
        xy += product.cast<double>();
    }
    const auto all_of = [](Square& square) {
        return std::span(square.data(), static_cast<std::size_t>(square.size()));
    };
    comm.sum(all_of(xx));
    comm.sum(all_of(xy));
    comm.sum(std::span(&used, 1));

    TargetFit fit{.map = std::vector<float>(all_of(xx).size())};
    if (comm.rank() == 0) {  // one rank decides: hosts may round differently
        const double trace = xx.trace();
        Square left = xx;
        left.diagonal().array() +=
            trace > 0 ? ridge * trace / static_cast<double>(n) : 1;  // equal rows: map 0
        const Square map = left.llt().solve(xy);
        fit.mean_square = (xx * map).cwiseProduct(map).sum() / std::max(used, 1.0);
        Eigen::Map<Rows>(fit.map.data(), n, n) = map.cast<float>();
    }
    comm.broadcast(std::as_writable_bytes(std::span(fit.map)), 0);
    comm.broadcast(std::as_writable_bytes(std::span(&fit.mean_square, 1)), 0);
    return fit;
}

}  // namespace strata::data
