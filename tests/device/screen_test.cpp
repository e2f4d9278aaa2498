// The screened encoder's bound: no pair that passes is missed, and few others are let through.

#include "device/cpu/screen.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "device/cpu/cpu_device.h"
#include "device/cpu/kernels.h"
#include "support/inside.h"
#include "support/problem.h"

namespace strata {
namespace {

using device::Screen;
using device::ScreenKernels;

struct Made {
    device::CpuDevice device{1};
    device::Tensors sae;
    std::vector<float> norm;
    std::vector<float> z;  // [rows, width], the values that count

    device::Rows rows(const test::Problem& p) const { return {p.x, static_cast<std::int64_t>(p.rows)}; }

    explicit Made(const test::Problem& p) : sae(test::put(p.sae, device)) {
        const auto width = static_cast<std::size_t>(sae.width), n = static_cast<std::size_t>(sae.n);
        norm.resize(p.rows);
        z.resize(p.rows * width);
        for (std::size_t b = 0; b < p.rows; ++b) {
            std::vector<float> xc(n);
            norm[b] =
                std::sqrt(device::kernels().subtract(p.x.data() + b * n, sae.b_dec.data(), sae.n, xc.data()));
            for (std::size_t j = 0; j < width; ++j)
                z[b * width + j] =
                    device::kernels().dot(xc.data(), sae.w_enc.data() + j * n, sae.n) + sae.b_enc.data()[j];
        }
    }
};

// What passed, [rows, width]: the test's left side, NaN elsewhere.
std::vector<float> passed(const Screen& screen, std::size_t rows, std::size_t width) {
    const auto nothing = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> all(rows * width, nothing);
    const std::int64_t tile_rows = screen.kernels->tile_rows, tile_columns = screen.kernels->tile_columns;
    const std::int64_t tiles = (static_cast<std::int64_t>(rows) + tile_rows - 1) / tile_rows;
    const auto room = static_cast<std::size_t>(tiles * tile_rows * tile_columns);
    std::vector<std::uint32_t> row(room), latent(room);
    std::vector<float> value(room);
    for (std::int64_t t = 0; t * tile_columns < static_cast<std::int64_t>(width); ++t) {
        const std::int64_t found =
            device::screen_tile(screen, 0, tiles, t, row.data(), latent.data(), value.data());
        for (std::size_t e = 0; e < static_cast<std::size_t>(found); ++e) {
            EXPECT_LT(row[e], rows);
            EXPECT_LT(latent[e], width);
            float& at = all.at(row[e] * width + latent[e]);
            EXPECT_TRUE(std::isnan(at));
            at = value[e];
        }
    }
    return all;
}

struct Case {
    std::size_t rows, n, width;
    test::Awkward data;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.rows << " x " << c.n << " x " << c.width << ", " << test::name_of(c.data);
}

// Every instruction set of this CPU with either bound.
template <typename Visit>
void for_each_screen(const Visit& visit) {
    EXPECT_EQ(device::all_screen_kernels().empty(), device::screen_kernels() == nullptr);
    for (const ScreenKernels& kernels : device::all_screen_kernels())
        for (const bool certain : {false, true}) {
            SCOPED_TRACE(fmt::format("{}, {}", kernels.target, certain ? "certain" : "dithered"));
            Screen screen = device::make_screen(certain, &kernels);
            visit(screen);
        }
}

class Bound : public testing::TestWithParam<Case> {};

// With a limit that all pass, the bound is met on both sides: the most that a value may be is no less than
// it, and no more than the stated width above it.
TEST_P(Bound, HoldsOnBothSides) {
    const Case& c = GetParam();
    const test::Problem p = test::make_problem(c.rows, c.n, c.width, c.data);
    const Made made(p);
    for_each_screen([&](Screen& screen) {
        const float least = *std::ranges::min_element(made.z);
        const std::vector<float> limit = {std::min(0.0F, 3 * least)};
        // Below every value: all pass.
        ASSERT_TRUE(device::prepare_screen(screen, made.sae, made.rows(p), made.norm, limit, false, 2));
        for (const float v : passed(screen, c.rows, c.width)) ASSERT_FALSE(std::isnan(v));
        // By row, with limit 0.
        ASSERT_TRUE(device::prepare_screen(screen, made.sae, made.rows(p), made.norm, {}, true, 2));
        const std::vector<float> left = passed(screen, c.rows, c.width);
        for (std::size_t b = 0; b < c.rows; ++b) {
            const auto row = static_cast<std::int64_t>(b);
            for (std::size_t j = 0; j < c.width; ++j) {
                const float z = made.z[b * c.width + j];
                const float v = left[b * c.width + j];
                if (std::isnan(v)) {
                    ASSERT_LT(z, 0) << b << ", " << j;
                    continue;
                }
                const float most = device::screen_most(screen, row, static_cast<std::uint32_t>(j), v, 0);
                ASSERT_GE(most, z) << b << ", " << j;
                const float width = device::screen_width(screen, row, static_cast<std::uint32_t>(j), 0);
                ASSERT_LE(most - width, z) << b << ", " << j;
            }
        }
    });
}

// A limit by row, and one by latent: exactly at the values of some pairs.
TEST_P(Bound, MissesNothingAtItsLimit) {
    const Case& c = GetParam();
    const test::Problem p = test::make_problem(c.rows, c.n, c.width, c.data);
    const Made made(p);
    for_each_screen([&](Screen& screen) {
        ASSERT_TRUE(device::prepare_screen(screen, made.sae, made.rows(p), made.norm, {}, true, 2));
        std::vector<float> limits(c.rows);
        for (std::size_t b = 0; b < c.rows; ++b) {
            limits[b] = std::max(0.0F, made.z[b * c.width + (b * 7) % c.width]);
            device::screen_limit(screen, static_cast<std::int64_t>(b), limits[b]);
        }
        std::vector<float> left = passed(screen, c.rows, c.width);
        for (std::size_t i = 0; i < left.size(); ++i)
            ASSERT_FALSE(std::isnan(left[i]) && made.z[i] >= limits[i / c.width]) << i;

        std::vector<float> by_latent(c.width);
        for (std::size_t j = 0; j < c.width; ++j) by_latent[j] = made.z[((j * 3) % c.rows) * c.width + j];
        ASSERT_TRUE(device::prepare_screen(screen, made.sae, made.rows(p), made.norm, by_latent, false, 2));
        left = passed(screen, c.rows, c.width);
        for (std::size_t i = 0; i < left.size(); ++i)
            ASSERT_FALSE(std::isnan(left[i]) && made.z[i] >= by_latent[i % c.width]) << i;
    });
}

std::vector<Case> cases() {
    std::vector<Case> all;
    for (int i = 0; i <= static_cast<int>(test::Awkward::one_row_many_times); ++i)
        all.push_back({50, 100, 130, static_cast<test::Awkward>(i)});
    for (const std::size_t n : {1U, 3U, 16U, 17U, 64U, 576U, 1000U}) {
        all.push_back({13, n, 33, test::Awkward::none});
        all.push_back({25, n, 70, test::Awkward::outliers});
    }
    return all;
}

INSTANTIATE_TEST_SUITE_P(Of, Bound, testing::ValuesIn(cases()));

// Normal rows against normal latents at the largest half per cent of the values: a bound that lets more than
// this through is worth nothing, and one that lets nothing more through is wrong.
TEST(Screen, LetsFewMoreThrough) {
    const test::Problem p = test::make_problem(200, 576, 1000);
    const Made made(p);
    std::vector<float> sorted = made.z;
    std::ranges::sort(sorted, std::greater<>());
    const std::size_t kept = sorted.size() / 200;
    const std::vector<float> limit = {sorted[kept - 1]};
    for_each_screen([&](Screen& screen) {
        ASSERT_TRUE(device::prepare_screen(screen, made.sae, made.rows(p), made.norm, limit, false, 2));
        const std::vector<float> left = passed(screen, 200, 1000);
        const auto found = std::ranges::count_if(left, [](float v) { return !std::isnan(v); });
        const double ratio = static_cast<double>(found) / static_cast<double>(kept);
        RecordProperty(fmt::format("{}_{}", screen.kernels->target, screen.certain ? "certain" : "dithered"),
                       fmt::format("{:.2f}", ratio));
        EXPECT_GT(ratio, 1.02);
        EXPECT_LT(ratio, screen.kernels->largest == 127 ? (screen.certain ? 3.5 : 1.6)
                                                        : (screen.certain ? 12.0 : 3.0));
    });
}

// A latent with an infinite limit, as one that never fires may have, lets nothing through.
TEST(Screen, NothingPassesAnInfiniteLimit) {
    const test::Problem p = test::make_problem(30, 40, 50);
    const Made made(p);
    std::vector<float> limit(50, -1e3F);
    limit[7] = std::numeric_limits<float>::infinity();
    for_each_screen([&](Screen& screen) {
        ASSERT_TRUE(device::prepare_screen(screen, made.sae, made.rows(p), made.norm, limit, false, 2));
        const std::vector<float> left = passed(screen, 30, 50);
        for (std::size_t i = 0; i < left.size(); ++i) ASSERT_EQ(std::isnan(left[i]), i % 50 == 7) << i;
    });
}

TEST(Screen, RefusesWhatIsNotFinite) {
    const test::Problem p = test::make_problem(20, 30, 40);
    const std::vector<float> limit = {0.1F};
    for_each_screen([&](Screen& screen) {
        const auto refused = [&](const test::Problem& problem) {
            const Made made(problem);
            return !device::prepare_screen(screen, made.sae, made.rows(problem), made.norm, limit, false, 1);
        };
        EXPECT_FALSE(refused(p));
        for (const float bad :
             {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e30F}) {
            test::Problem row = p, weight = p, bias = p;
            row.x[35] = bad;
            weight.sae.w_enc[100] = bad;
            bias.sae.b_enc[3] = bad;
            EXPECT_TRUE(refused(row)) << bad;
            EXPECT_TRUE(refused(weight)) << bad;
            EXPECT_EQ(refused(bias), !std::isfinite(bad)) << bad;
        }
    });
}

TEST(Screen, IsRefusedWhereTheCpuHasNone) {
    const device::CpuOptions options{.encoder = "screened"};
    if (device::screen_kernels() == nullptr)
        EXPECT_THROW(device::make_cpu_device(1, options), UsageError);
    else
        EXPECT_NO_THROW(device::make_cpu_device(1, options));
}

// update() leaves the integers of the new weights, by which the next batch is screened; they are not taken
// for those of weights that came otherwise.
TEST(Encoder, IsKeptByUpdatesAndNotByOtherChanges) {
    const test::Problem p = test::make_problem(40, 100, 130);
    std::vector<float> changed = p.sae.w_enc;
    for (float& w : changed) w *= 0.9F;
    for (const ScreenKernels& kernels : device::all_screen_kernels())
        for (const char* bound : {"dithered", "certain"})
            for (const int threads : {1, 3}) {
                SCOPED_TRACE(fmt::format("{}, {}, {} threads", kernels.target, bound, threads));
                device::CpuDevice device(threads, {"screened", bound}, &kernels);
                device.prepare(40, 100, 130, 1);
                device::Tensors sae = test::put(p.sae, device);
                device::Tensors first = device::make_tensors(device, sae);
                device::Tensors second = device::make_tensors(device, sae);
                const device::Tensors gradient = test::put(p.sae, device);
                const auto candidates = [&] {
                    device.center({p.x, 40}, sae);
                    EXPECT_TRUE(test::screen_above(device, sae, 0.2F));
                    return test::candidates_in(device);
                };
                const auto alone = [&] {
                    device::Memory<std::byte> kept;
                    std::swap(kept, sae.encoder);
                    const std::vector<test::Pair> found = candidates();
                    std::swap(kept, sae.encoder);
                    return found;
                };
                sae.encoder = device::make_memory<std::byte>(device, device.encoder_bytes(sae));
                device.encoder_changed(sae);
                const auto& header = *reinterpret_cast<device::Integers::Header*>(sae.encoder.data());
                EXPECT_EQ(header.made, 0U);
                EXPECT_EQ(candidates(), alone());
                for (int t = 0; t < 3; ++t) {
                    device.update(sae, gradient, first, second, {.lr = 0.03F}, 0, 60);
                    device.update(sae, gradient, first, second, {.lr = 0.03F}, 60, sae.width);
                    EXPECT_EQ(header.made, 1U);
                    EXPECT_EQ(candidates(), alone());
                }
                test::put(changed, sae.w_enc, device);
                EXPECT_THROW(candidates(), RunError);
                device.encoder_changed(sae);
                EXPECT_EQ(header.made, 0U);
                EXPECT_EQ(candidates(), alone());
                device.update(sae, gradient, first, second, {.lr = 0.03F}, 0, sae.width);
                EXPECT_EQ(header.made, 1U);
                EXPECT_EQ(candidates(), alone());
            }
}

}  // namespace
}  // namespace strata
