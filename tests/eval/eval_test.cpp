// Calibration, measures and saved SAEs against plain loops over all rows. Run at 1, 2, 3 and 4 ranks.

#include "eval/evaluate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "comm/mpi.h"
#include "data/files.h"
#include "device/cpu/cpu_device.h"
#include "eval/calibrate.h"
#include "eval/saved.h"
#include "sae/sae.h"
#include "support/log.h"
#include "support/problem.h"
#include "support/shared_folder.h"

namespace strata::eval {
namespace {

constexpr std::size_t n = 19, width = 70;

// z [rows, width] in float64.
std::vector<double> pre_activations(const reference::Sae<float>& sae, const std::vector<float>& x) {
    return reference::pre_activations(reference::Sae<double>(sae), test::widen(x), x.size() / n);
}

TEST(Calibration, IsTheKthLargestOverTheBatchesOfAllRanksWhateverTheFirstGuess) {
    const auto comm = make_mpi_communicator();
    constexpr std::size_t batches = 3, rows = 50;
    const test::Problem p = test::make_problem(batches * rows, n, width);
    std::vector<double> z = pre_activations(p.sae, p.x);
    std::ranges::sort(z, std::greater<>());

    device::CpuDevice device(2);
    device.prepare(rows, n, width, 1);
    const device::Tensors parameters = test::put(p.sae, device);
    const auto first = static_cast<std::int64_t>(rows) * comm->rank() / comm->size();
    const auto last = static_cast<std::int64_t>(rows) * (comm->rank() + 1) / comm->size();
    const EachBatch each = [&](const std::function<void(const data::Batch&)>& visit) {
        for (std::size_t i = 0; i < batches; ++i)
            visit({std::span(p.x).subspan((i * rows + static_cast<std::size_t>(first)) * n,
                                          static_cast<std::size_t>(last - first) * n),
                   last - first, first});
    };
    for (const double k : {0.5, 3.0, 11.3})
        for (const float lower : {0.0F, 0.1F, 5.0F}) {
            // Every rank's own, as after training with thresholds of its own.
            const float guess = lower * (1 + static_cast<float>(comm->rank()));
            const float found = calibrate_threshold(device, *comm, parameters, k, guess, each);
            const auto wanted = static_cast<std::size_t>(std::llround(k * batches * rows));
            EXPECT_NEAR(found, z[wanted - 1], 1e-6) << k << " from " << lower;
        }
}

// Two files of rows, removed at the end; rank 0 writes them. Batches begin in one and end in the other.
struct Files {
    test::SharedFolder folder;
    std::filesystem::path path;
    Files(Communicator& comm, const std::vector<float>& rows, const std::vector<float>& targets = {})
        : folder(comm), path(folder / "rows-*.h5") {
        const std::size_t all = rows.size() / n;
        for (const int part : {0, 1}) {
            if (comm.rank() != 0) break;
            const std::size_t first = part == 0 ? 0 : all * 3 / 7,
                              count = part == 0 ? all * 3 / 7 : all - first;
            data::Writer writer(folder / ("rows-" + std::to_string(part) + ".h5"));
            const auto write = [&](const char* name, data::Type type, const std::vector<float>& of) {
                writer.append(writer.add({name, n, type, "", "", -1}),
                              std::vector(of.begin() + first * n, of.begin() + (first + count) * n));
            };
            write("resid_post/0", data::Type::float32, rows);
            if (!targets.empty()) write("mlp_out/0", data::Type::bfloat16, targets);
            writer.finish();
        }
        comm.barrier();
    }
};

TEST(Batches, HoldTheTargetsOfTheRowsKept) {
    const auto comm = make_mpi_communicator();
    constexpr std::int64_t all = 211;
    std::vector<float> x(all * n, 1), targets(all * n);
    for (std::size_t row = 0; row < all; ++row)
        for (std::size_t c = 0; c < n; ++c) {
            x[row * n + c] = row % 10 == 4 ? 100 : static_cast<float>(row) / 128;
            targets[row * n + c] = static_cast<float>(row) + (c == 3 ? 0.0F : 0.5F);  // exact in bfloat16
            if (row >= 128) targets[row * n + c] = static_cast<float>(row);
        }
    const Files files(*comm, x, targets);
    const data::Dataset dataset =
        data::find_datasets({files.path.string()}, {"resid_post/0"}, "mlp_out/*").front();
    std::vector<std::uint64_t> seen(all);
    std::int64_t rows = 0;
    device::CpuDevice device(1);
    const data::LeftOut left_out =
        for_each_batch(device, dataset, 5, all, 64, 50, 0.25, *comm,
                       [&](const data::Batch& batch, std::int64_t global_rows) {
                           rows += global_rows;
                           ASSERT_EQ(batch.target.size(), batch.x.size());
                           for (std::size_t at = 0; at < batch.x.size(); at += n) {
                               const auto row = static_cast<std::size_t>(std::llround(4 * 128 * batch.x[at]));
                               ++seen.at(row);
                               for (std::size_t c = 0; c < n; ++c) {
                                   EXPECT_EQ(batch.x[at + c], 0.25F * x[row * n + c]);
                                   EXPECT_EQ(batch.target[at + c], 0.25F * targets[row * n + c]);
                               }
                           }
                       });
    comm->sum(seen);
    EXPECT_EQ(left_out.skipped, 20);  // 14, 24, ... 204
    EXPECT_EQ(rows, 206 - 20);
    for (std::size_t row = 0; row < all; ++row)
        EXPECT_EQ(seen[row], row >= 5 && row % 10 != 4 ? 1 : 0) << row;

    data::Dataset alone = dataset;
    alone.target = nullptr;
    for_each_batch(device, alone, 5, all, 64, 50, 0.25, *comm,
                   [&](const data::Batch& batch, std::int64_t) { EXPECT_TRUE(batch.target.empty()); });
}

TEST(Batches, LeaveOutCorruptRowsWhereTheDatasetDoes) {
    const auto comm = make_mpi_communicator();
    constexpr std::int64_t all = 300;
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> x(all * n), targets(all * n, 1);
    for (std::size_t row = 0; row < all; ++row)
        for (std::size_t c = 0; c < n; ++c) x[row * n + c] = row == 40 ? 100 : static_cast<float>(row) / 128;
    for (const std::size_t row : {7, 40, 41, 255}) targets[row * n + 3] = nan;
    for (const std::size_t row : {0, 41, 42}) x[row * n] = nan;
    const auto corrupt = [](std::size_t row) {
        return row == 0 || row == 7 || (row >= 40 && row <= 42) || row >= 128;  // the second file is damaged
    };
    const Files files(*comm, x, targets);
    if (comm->rank() == 0) data::damage_chunk(files.folder / "rows-1.h5", "resid_post/0", 0);
    comm->barrier();
    const test::Logged logged;
    device::CpuDevice device(1);
    for (const bool skip : {true, false}) {
        const data::Dataset dataset =
            data::find_datasets({files.path.string()}, {"resid_post/0"}, "mlp_out/*", skip).front();
        std::vector<std::uint64_t> seen(all);
        const auto visit = [&] {
            return for_each_batch(
                device, dataset, 0, all, 64, 50, 1, *comm, [&](const data::Batch& batch, std::int64_t) {
                    for (std::size_t at = 0; at < batch.x.size(); at += n)
                        ++seen.at(static_cast<std::size_t>(std::llround(128 * batch.x[at])));
                });
        };
        if (!skip) {
            if (comm->rank() == 0) {
                EXPECT_THROW(visit(), RunError);  // of the first row
            }
            continue;
        }
        const data::LeftOut left_out = visit();
        comm->sum(seen);
        EXPECT_EQ(left_out.skipped, 0);
        EXPECT_EQ(left_out.corrupt, 5 + all - 128);
        for (std::size_t row = 0; row < all; ++row) EXPECT_EQ(seen[row], corrupt(row) ? 0 : 1) << row;
    }
}

TEST(Measures, AreThoseOfAllRowsWithinTheLimit) {
    const auto comm = make_mpi_communicator();
    test::Problem p = test::make_problem(211, n, width);
    for (std::size_t c = 0; c < n; ++c) p.x[7 * n + c] *= 100;  // over the limit
    for (std::size_t c = 0; c < n; ++c) p.x[200 * n + c] = 0;
    const Files files(*comm, p.x);
    const data::Dataset dataset = data::find_datasets({files.path.string()}, {"resid_post/0"}).front();

    constexpr double scale = 0.5, limit = 20;
    constexpr float threshold = 0.3F;
    device::CpuDevice device(2);
    device.prepare(64, n, width, 1);
    const device::Tensors parameters = test::put(p.sae, device);
    const std::vector<float> thresholds(width, threshold);
    Sums sums(n, width);
    std::int64_t batch_rows = 0;
    const data::LeftOut left_out = for_each_batch(
        device, dataset, 5, 211, 64, limit, scale, *comm,
        [&](const data::Batch& batch, std::int64_t global_rows) {
            batch_rows += global_rows;
            device.center({batch.x, batch.rows}, parameters);
            sae::apply_inference(device, parameters, false, 0, thresholds);
            device.decode(device::CodeSet::main, parameters, 0);
            add_batch(device, parameters, batch.rows, device.decode_sums(device::CodeSet::main), sums);
        });
    reduce(*comm, sums);
    const Measures found = measures(sums);
    EXPECT_EQ(left_out.skipped, 1);
    EXPECT_EQ(left_out.corrupt, 0);
    EXPECT_EQ(batch_rows, 205);
    EXPECT_EQ(found.rows, 205);

    double error = 0, square = 0, l0 = 0, l1 = 0, cosine = 0;
    std::vector<double> mean(n);
    std::vector<int> fired(width);
    for (std::size_t b = 5; b < 211; ++b) {
        if (b == 7) continue;
        std::vector<float> row(p.x.begin() + static_cast<std::ptrdiff_t>(b * n),
                               p.x.begin() + static_cast<std::ptrdiff_t>((b + 1) * n));
        for (float& v : row) v *= static_cast<float>(scale);
        const std::vector<double> z = pre_activations(p.sae, row);
        std::vector<double> hat(p.sae.b_dec.begin(), p.sae.b_dec.end());
        for (std::size_t j = 0; j < width; ++j) {
            if (z[j] <= threshold) continue;
            ++l0;
            l1 += z[j];
            ++fired[j];
            for (std::size_t c = 0; c < n; ++c) hat[c] += z[j] * p.sae.w_dec[j * n + c];
        }
        double xx = 0, xh = 0, hh = 0;
        for (std::size_t c = 0; c < n; ++c) {
            const double x = row[c];
            error += (x - hat[c]) * (x - hat[c]);
            mean[c] += x / 205;
            xx += x * x;
            xh += x * hat[c];
            hh += hat[c] * hat[c];
        }
        square += xx;
        if (xx > 0 && hh > 0) cosine += xh / std::sqrt(xx * hh);
    }
    double variance = square;
    for (const double m : mean) variance -= 205 * m * m;
    EXPECT_NEAR(found.reconstruction, error / 205, 1e-5);
    EXPECT_NEAR(found.fvu, error / variance, 1e-5);
    EXPECT_NEAR(found.l0, l0 / 205, 1e-12);
    EXPECT_NEAR(found.l1, l1 / 205, 1e-5);
    EXPECT_NEAR(found.cosine, cosine / 205, 1e-5);
    EXPECT_NEAR(found.dead_fraction, static_cast<double>(std::ranges::count(fired, 0)) / width, 1e-12);
    EXPECT_NEAR(found.dense_fraction,
                static_cast<double>(std::ranges::count_if(fired, [](int f) { return f > 20.5; })) / width,
                1e-12);
}

TEST(Measures, OfNoRowsAreZero) {
    const Measures none = measures(Sums(3, 4));
    EXPECT_EQ(none.rows, 0);
    EXPECT_EQ(none.fvu, 0);
}

TEST(Saved, ABiasThatIsNotSubtractedFromTheInputMovesIntoTheEncoder) {
    const test::Problem p = test::make_problem(30, n, width);
    saelens::SavedSae saved;
    saved.architecture = "jumprelu";
    saved.n = n;
    saved.width = width;
    saved.w_enc = p.sae.w_enc;
    saved.w_dec = p.sae.w_dec;
    saved.b_enc = p.sae.b_enc;
    saved.b_dec = p.sae.b_dec;
    saved.threshold.assign(width, 0.2F);
    saved.apply_b_dec_to_input = false;
    device::CpuDevice device(1);
    device.prepare(30, n, width, 1);
    const UsableSae sae = upload(device, saved);
    device.center({p.x, 30}, sae.parameters);
    sae::apply_inference(device, sae.parameters, sae.row_top, sae.k, sae.thresholds);
    std::vector<std::uint32_t> begin, latent;
    std::vector<float> value;
    device.read_codes(begin, latent, value);

    reference::Sae<float> plain = p.sae;
    std::ranges::fill(plain.b_dec, 0.0F);
    const std::vector<double> z = pre_activations(plain, p.x);
    std::size_t at = 0;
    for (std::size_t i = 0; i < z.size(); ++i) {
        if (z[i] <= 0.2F) continue;
        ASSERT_LT(at, latent.size());
        EXPECT_EQ(latent[at], i % width);
        EXPECT_NEAR(value[at++], z[i], 1e-5);
    }
    EXPECT_EQ(at, latent.size());
}

}  // namespace
}  // namespace strata::eval
