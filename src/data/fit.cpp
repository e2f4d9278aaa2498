#include "data/fit.h"

#include <Eigen/Cholesky>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/linear.h"
#include "base/log.h"
#include "data/norm.h"
#include "data/sample.h"

namespace strata::data {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Square = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using MappedRows = Eigen::Map<Rows>;
using MappedSquare = Eigen::Map<Square>;

constexpr double ridge = 1e-3;
constexpr std::int64_t samples_per_element = 16;
constexpr Eigen::Index block_of_columns = 64;

// Row x, then target y of each sample of a share, less their means; zero where either is left out. Returns
// how many are not.
std::int64_t read_share(const Dataset& dataset, const InputStatistics& statistics, const Sample& sample,
                        std::int64_t share, MappedRows x, MappedRows y) {
    const std::int64_t first = sample.first_of_share(share), n = dataset.n;
    const std::int64_t count = x.rows();
    x.setZero();
    y.setZero();
    std::vector<float> values(static_cast<std::size_t>(n));
    const auto fill = [&](MappedRows& rows, std::int64_t row, const std::vector<double>& mean) {
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

// visit(first column, columns) of each block, by one thread.
template <typename Visit>
void each_block(Eigen::Index columns, const Visit& visit) {
#pragma omp parallel for schedule(dynamic)
    for (Eigen::Index first = 0; first < columns; first += block_of_columns)
        visit(first, std::min(block_of_columns, columns - first));
}

// xx += x^T x, of which the upper triangle is wanted, and xy += x^T y. Of the sums in float32 over a share
// few bits are lost in double, so that their order counts for little.
void add_products(const MappedRows& x, const MappedRows& y, MappedSquare& xx, MappedSquare& xy) {
    const Eigen::Index n = x.cols();
    each_block(n, [&](Eigen::Index first, Eigen::Index columns) {
        const auto left = x.middleCols(first, columns).transpose();
        Rows product = left * x.rightCols(n - first);
        xx.block(first, first, columns, n - first) += product.cast<double>();
        product.noalias() = left * y;
        xy.middleRows(first, columns) += product.cast<double>();
    });
}

// The map of the sums over all ranks, whose diagonal changes; E|(x - E x) map|^2 times the rows.
double solve(MappedSquare& xx, const MappedSquare& xy, MappedRows map) {
    const Eigen::Index n = xx.rows();
    const double trace = xx.trace();
    const double shift = trace > 0 ? ridge * trace / static_cast<double>(n) : 1;  // equal rows: map 0
    xx.diagonal().array() += shift;
    const Eigen::LLT<Eigen::Ref<Square>, Eigen::Upper> factor(xx);
    if (factor.info() != Eigen::Success) return std::nan("");
    std::vector<double> of_block(static_cast<std::size_t>((n + block_of_columns - 1) / block_of_columns));
    each_block(n, [&](Eigen::Index first, Eigen::Index columns) {
        Eigen::MatrixXd part = xy.middleCols(first, columns);
        factor.solveInPlace(part);
        map.middleCols(first, columns) = part.cast<float>();
        // C_xx map = C_xy - shift map
        of_block[static_cast<std::size_t>(first / block_of_columns)] =
            part.cwiseProduct(xy.middleCols(first, columns) - shift * part).sum();
    });
    return std::accumulate(of_block.begin(), of_block.end(), 0.0);
}

}  // namespace

TargetFit fit_target(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
                     Communicator& comm) {
    const Sample sample(training_rows(dataset, config), samples_per_element * dataset.n);
    const std::int64_t n = dataset.n, elements = n * n;
    if (comm.rank() == 0)
        log::info("{}: transcoders begin by the linear map to {} that {} rows tell", dataset.name,
                  dataset.target->name, sample.samples());
    fix_block_sizes();
    Array<double> of_xx(static_cast<std::size_t>(elements)), of_xy(static_cast<std::size_t>(elements));
    MappedSquare xx(of_xx.data(), n, n), xy(of_xy.data(), n, n);
    double used = 0;
    {
        Array<float> of_x, of_y;
        for (std::int64_t share = Sample::first_share(comm.rank(), comm.size());
             share < Sample::first_share(comm.rank() + 1, comm.size()); ++share) {
            const std::int64_t rows = sample.first_of_share(share + 1) - sample.first_of_share(share);
            of_x.grow(static_cast<std::size_t>(rows * n));
            of_y.grow(static_cast<std::size_t>(rows * n));
            const MappedRows x(of_x.data(), rows, n), y(of_y.data(), rows, n);
            used += static_cast<double>(read_share(dataset, statistics, sample, share, x, y));
            add_products(x, y, xx, xy);
        }
    }
    comm.sum(of_xx);
    comm.sum(of_xy);
    comm.sum(std::span(&used, 1));

    TargetFit fit{.map = Array<float>(static_cast<std::size_t>(elements))};
    if (comm.rank() == 0) {  // one rank decides: hosts may round differently
        fit.mean_square = solve(xx, xy, MappedRows(fit.map.data(), n, n)) / std::max(used, 1.0);
        if (!std::isfinite(fit.mean_square))
            fail(
                "{}: no linear map to {} can be found, their values are too large; "
                "sae.encoder_init: random needs none",
                dataset.name, dataset.target->name);
    }
    comm.broadcast(std::as_writable_bytes(std::span(fit.map)), 0);
    comm.broadcast(std::as_writable_bytes(std::span(&fit.mean_square, 1)), 0);
    return fit;
}

}  // namespace strata::data
