// Every set of kernels this CPU has against plain loops, and the sets that fuse multiply and add against each
// other, bit for bit.

#include "device/cpu/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "base/memory.h"
#include "base/random.h"

namespace strata::device {
namespace {

constexpr std::int64_t lengths[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 576, 1003};
constexpr double unit = 0x1p-24;

std::vector<float> numbers(std::size_t size, std::uint64_t stream) {
    Random random(7, Purpose::synthetic, stream);
    std::vector<float> out(size);
    for (float& v : out) v = random.normal();
    return out;
}

bool fuses(const Kernels& set) {
    return std::string(set.target).starts_with("AVX") || std::string(set.target).starts_with("NEON");
}

// A vector with guards around it, which a kernel must leave alone.
struct Guarded {
    std::vector<float> all;
    explicit Guarded(const std::vector<float>& inner) : all(inner.size() + 32, 12345) {
        std::ranges::copy(inner, all.begin() + 16);
    }
    float* data() { return all.data() + 16; }
    std::vector<float> inner() const { return {all.begin() + 16, all.end() - 16}; }
    bool intact() const {
        for (std::size_t i = 0; i < 16; ++i)
            if (all[i] != 12345 || all[all.size() - 1 - i] != 12345) return false;
        return true;
    }
};

class EveryKernel : public testing::TestWithParam<std::size_t> {
  protected:
    const Kernels set = all_kernels()[GetParam()];
};

std::vector<std::size_t> sets() {
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < all_kernels().size(); ++i) all.push_back(i);
    return all;
}
INSTANTIATE_TEST_SUITE_P(Target, EveryKernel, testing::ValuesIn(sets()),
                         [](const auto& info) { return std::string(all_kernels()[info.param].target); });

double dot_of(const float* a, const float* b, std::int64_t n) {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
}

double dot_bound(const float* a, const float* b, std::int64_t n) {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += std::abs(static_cast<double>(a[i]) * b[i]);
    return (static_cast<double>(n) / 16 + 8) * unit * sum;  // 32 chains
}

TEST_P(EveryKernel, DotsAreSumsOfProducts) {
    for (const std::int64_t n : lengths) {
        const auto length = static_cast<std::size_t>(n);
        const std::vector<float> x = numbers(length, 1);
        const std::vector<float> left = numbers(5 * length, 2);
        const std::vector<float> right = numbers(11 * length, 3);
        EXPECT_NEAR(set.dot(x.data(), right.data(), n), dot_of(x.data(), right.data(), n),
                    dot_bound(x.data(), right.data(), n));
        for (const std::size_t count : {0, 1, 3, 4, 5, 9}) {
            std::vector<std::uint32_t> a_index(count), b_index(count);
            for (std::size_t i = 0; i < count; ++i) {
                a_index[i] = static_cast<std::uint32_t>(i * 3 % 5);
                b_index[i] = static_cast<std::uint32_t>(10 - i * 7 % 11);
            }
            Guarded one(std::vector<float>(count, -1)), two(std::vector<float>(count, -1));
            set.dots(x.data(), right.data(), b_index.data(), static_cast<std::int64_t>(count), n, one.data());
            set.pair_dots(left.data(), a_index.data(), right.data(), b_index.data(),
                          static_cast<std::int64_t>(count), n, two.data());
            EXPECT_TRUE(one.intact() && two.intact());
            for (std::size_t i = 0; i < count; ++i) {
                // One summation order, whichever kernel.
                EXPECT_EQ(one.data()[i], set.dot(x.data(), right.data() + b_index[i] * n, n))
                    << n << " " << i;
                EXPECT_EQ(two.data()[i],
                          set.dot(left.data() + a_index[i] * n, right.data() + b_index[i] * n, n))
                    << n << " " << i;
            }
        }
    }
}

TEST_P(EveryKernel, VectorsAreAddedSubtractedAndScaled) {
    for (const std::int64_t n : lengths) {
        const auto length = static_cast<std::size_t>(n);
        const std::vector<float> a = numbers(length, 4);
        const std::vector<float> b = numbers(length, 5);

        Guarded difference(std::vector<float>(length, 0));
        const float square = set.subtract(a.data(), b.data(), n, difference.data());
        Guarded sum(b);
        set.add(a.data(), 0.7F, n, sum.data());
        Guarded scaled(a);
        set.multiply(-1.3F, n, scaled.data());
        EXPECT_TRUE(difference.intact() && sum.intact() && scaled.intact());
        for (std::size_t i = 0; i < length; ++i) {
            EXPECT_EQ(difference.data()[i], a[i] - b[i]);
            EXPECT_EQ(scaled.data()[i], -1.3F * a[i]);
            EXPECT_NEAR(sum.data()[i], static_cast<double>(0.7F) * a[i] + b[i],
                        2 * unit * (std::abs(a[i]) + std::abs(b[i])));
        }
        EXPECT_EQ(square, set.dot(difference.data(), difference.data(), n));
    }
}

TEST_P(EveryKernel, RowsAreAddedInTheOrderOfTheirIndices) {
    for (const std::int64_t n : lengths)
        for (const std::size_t count : {0, 1, 3, 4, 5, 8, 11}) {
            const auto length = static_cast<std::size_t>(n);
            const std::vector<float> base = numbers(7 * length, 6);
            const std::vector<float> weight = numbers(count, 7);
            std::vector<std::uint32_t> index(count);
            for (std::size_t i = 0; i < count; ++i) index[i] = static_cast<std::uint32_t>(i * 5 % 7);
            const std::vector<float> start = numbers(length, 8);
            Guarded sum(start), one_by_one(start);
            set.add_rows(base.data(), index.data(), weight.data(), static_cast<std::int64_t>(count), n,
                         sum.data());
            EXPECT_TRUE(sum.intact());
            for (std::size_t i = 0; i < count; ++i)
                set.add(base.data() + index[i] * length, weight[i], n, one_by_one.data());
            for (std::size_t c = 0; c < length; ++c) {
                double expected = start[c];
                double magnitude = std::abs(start[c]);
                for (std::size_t i = 0; i < count; ++i) {
                    expected += static_cast<double>(weight[i]) * base[index[i] * length + c];
                    magnitude += std::abs(weight[i] * base[index[i] * length + c]);
                }
                EXPECT_NEAR(sum.data()[c], expected, static_cast<double>(2 * count + 1) * unit * magnitude);
                EXPECT_TRUE(!fuses(set) || sum.data()[c] == one_by_one.data()[c]);
            }
        }
}

TEST_P(EveryKernel, ScanKeepsEverythingAtOrAboveTheLimit) {
    for (const std::int64_t n : lengths)
        for (const float limit : {-10.0F, -0.5F, 0.25F, 10.0F}) {
            const auto length = static_cast<std::size_t>(n);
            std::vector<float> z = numbers(length, 9);
            const std::vector<float> bias = numbers(length, 10);
            z[length / 2] = limit - bias[length / 2];  // often exactly at the limit
            z[length / 3] = std::numeric_limits<float>::quiet_NaN();
            std::vector<std::uint32_t> expected;
            for (std::size_t j = 0; j < length; ++j)
                if (z[j] + bias[j] >= limit) expected.push_back(static_cast<std::uint32_t>(100 + j));
            std::vector<std::uint32_t> latent(length + 16, 77);
            Guarded value(std::vector<float>(length, 0));
            const std::int64_t found =
                set.scan(z.data(), bias.data(), n, limit, 100, latent.data(), value.data());
            ASSERT_EQ(found, std::ssize(expected)) << n << " " << limit;
            EXPECT_TRUE(value.intact());
            for (std::size_t i = length; i < latent.size(); ++i) EXPECT_EQ(latent[i], 77U);
            for (std::size_t i = 0; i < expected.size(); ++i) {
                EXPECT_EQ(latent[i], expected[i]);
                EXPECT_EQ(value.data()[i], z[expected[i] - 100] + bias[expected[i] - 100]);
            }
        }
}

TEST_P(EveryKernel, TilesAreAddedAndProjected) {
    const std::vector<std::uint32_t> rows = {3, 0, 8, 3, 5, 1, 2};
    for (const std::int64_t width : {16, 32, 64})
        for (const std::int64_t valid : {std::int64_t{1}, std::int64_t{7}, width / 2, width - 1, width})
            for (const bool with_direction : {false, true})
                for (const auto& [count, keep] :
                     {std::pair(0, false), std::pair(1, false), std::pair(2, false), std::pair(0, true),
                      std::pair(2, true)}) {
                    Array<float> tile(static_cast<std::size_t>(9 * width));
                    Array<float> other(static_cast<std::size_t>(9 * width));
                    for (std::int64_t b = 0; b < 9; ++b)  // columns that do not exist are zero
                        for (std::int64_t c = 0; c < valid; ++c) {
                            tile[static_cast<std::size_t>(b * width + c)] =
                                std::sin(static_cast<float>(7 * b + c));
                            other[static_cast<std::size_t>(b * width + c)] =
                                std::cos(static_cast<float>(5 * b + 3 * c));
                        }
                    const std::vector<float> weight = numbers(7, 11);
                    const std::vector<float> direction = numbers(64, 12);
                    const TileSource sources[2] = {{tile.data(), rows.data(), weight.data(), 7},
                                                   {other.data(), rows.data() + 1, weight.data() + 2, 3}};
                    Guarded out(std::vector<float>(static_cast<std::size_t>(valid), -5));
                    const float square =
                        set.add_tiles(sources, count, width, valid, 0.3F,
                                      with_direction ? direction.data() : nullptr, keep, out.data());
                    EXPECT_TRUE(out.intact()) << width << " " << valid;
                    double expected_square = 0;
                    for (std::int64_t c = 0; c < valid; ++c) {
                        double expected = with_direction ? -static_cast<double>(0.3F) *
                                                               direction[static_cast<std::size_t>(c)]
                                                         : 0;
                        if (keep) expected -= 5;
                        double magnitude = std::abs(expected);
                        for (std::int64_t s = 0; s < count; ++s)
                            for (std::int64_t e = 0; e < sources[s].count; ++e) {
                                const double term = static_cast<double>(sources[s].weight[e]) *
                                                    sources[s].tile[sources[s].row[e] * width + c];
                                expected += term;
                                magnitude += std::abs(term);
                            }
                        EXPECT_NEAR(out.data()[c], expected, 24 * unit * magnitude);
                        expected_square += static_cast<double>(out.data()[c]) * out.data()[c];
                    }
                    EXPECT_NEAR(square, expected_square, 16 * unit * expected_square);
                }
}

TEST_P(EveryKernel, ScheduleFreeIsTheFormula) {
    using Kind = OptimizerStep::Kind;
    for (const Kind kind : {Kind::adam_schedule_free, Kind::signum})
        for (const std::int64_t n : lengths) {
            OptimizerStep step;
            step.kind = kind;
            step.lr = 0.01F;
            step.beta2 = 0.99F;
            step.epsilon = 1e-6F;
            step.correction2 = 0.0297F;
            step.gradient_scale = 0.37F;
            step.average = 0.2F;
            const auto length = static_cast<std::size_t>(n);
            const std::vector<float> w0 = numbers(length, 13);
            const std::vector<float> z0 = numbers(length, 14);
            std::vector<float> v0 = numbers(length, 15);
            for (float& v : v0) v *= v;
            std::vector<float> g = numbers(length, 16);
            g[0] = 0;
            Guarded w(w0), z(z0), v(v0);
            set.optimize(w.data(), z.data(), v.data(), g.data(), n, rates_of(step));
            EXPECT_TRUE(w.intact() && z.intact() && v.intact());
            for (std::size_t i = 0; i < length; ++i) {
                const double gradient = 0.37 * g[i];
                const double square = 0.99 * v0[i] + 0.01 * gradient * gradient;
                const double sign = g[i] > 0 ? 1 : g[i] < 0 ? -1 : 0;
                const double u = kind == Kind::signum ? sign : gradient / (std::sqrt(square / 0.0297) + 1e-6);
                const double move = 0.01 * (1 - 0.9 * (1 - 0.2)) * u;
                const double scale = std::abs(w0[i]) + std::abs(z0[i]) + std::abs(u) * 0.01;
                EXPECT_NEAR(v.data()[i], kind == Kind::signum ? v0[i] : square, 1e-6);
                EXPECT_NEAR(z.data()[i], z0[i] - 0.01 * u, 1e-6 * scale);
                EXPECT_NEAR(w.data()[i], w0[i] + 0.2 * (z0[i] - w0[i]) - move, 1e-6 * scale);
            }
        }
}

TEST_P(EveryKernel, AdamIsTheFormula) {
    OptimizerStep step{.lr = 0.01F,
                       .beta1 = 0.9F,
                       .beta2 = 0.99F,
                       .epsilon = 1e-6F,
                       .correction1 = 0.271F,
                       .correction2 = 0.0297F,
                       .gradient_scale = 0.37F};
    for (const std::int64_t n : lengths) {
        const auto length = static_cast<std::size_t>(n);
        const std::vector<float> w0 = numbers(length, 13);
        const std::vector<float> m0 = numbers(length, 14);
        std::vector<float> v0 = numbers(length, 15);
        for (float& v : v0) v *= v;
        std::vector<float> g = numbers(length, 16);
        g[0] = 0;
        Guarded w(w0), m(m0), v(v0);
        set.optimize(w.data(), m.data(), v.data(), g.data(), n, rates_of(step));
        EXPECT_TRUE(w.intact() && m.intact() && v.intact());
        for (std::size_t i = 0; i < length; ++i) {
            const double gradient = 0.37 * g[i];
            const double mean = 0.9 * m0[i] + 0.1 * gradient;
            const double square = 0.99 * v0[i] + 0.01 * gradient * gradient;
            const double move = 0.01 * (mean / 0.271) / (std::sqrt(square / 0.0297) + 1e-6);
            EXPECT_NEAR(m.data()[i], mean, 1e-6);
            EXPECT_NEAR(v.data()[i], square, 1e-6);
            EXPECT_NEAR(w.data()[i], w0[i] - move, 1e-6 * (std::abs(w0[i]) + std::abs(move)));
        }
    }
}

// What a run computes must not depend on which of these CPUs it lands on.
TEST_P(EveryKernel, HasTheBitsOfTheBestSetIfItFuses) {
    if (!fuses(set)) return;
    const Kernels& best = kernels();
    for (const std::int64_t n : lengths) {
        const auto length = static_cast<std::size_t>(n);
        const std::vector<float> a = numbers(length, 17);
        const std::vector<float> base = numbers(9 * length, 18);
        const std::vector<float> weight = numbers(9, 19);
        const std::vector<std::uint32_t> index = {8, 1, 1, 0, 5, 7, 2, 3, 6};
        const std::vector<std::uint32_t> zero(9, 0);
        const auto all = [&](const Kernels& k) {
            std::vector<float> out = {k.dot(a.data(), base.data(), n)};
            std::vector<float> dots(9), sum = a, difference(length), scaled = a, added = a, w = a, m = a,
                                        v = a;
            k.dots(a.data(), base.data(), index.data(), 9, n, dots.data());
            out.insert(out.end(), dots.begin(), dots.end());
            k.pair_dots(a.data(), zero.data(), base.data(), index.data(), 9, n, dots.data());
            out.insert(out.end(), dots.begin(), dots.end());
            k.add_rows(base.data(), index.data(), weight.data(), 9, n, sum.data());
            k.add(base.data(), 0.3F, n, added.data());
            out.push_back(k.subtract(a.data(), base.data(), n, difference.data()));
            k.multiply(0.3F, n, scaled.data());
            for (float& x : v) x *= x;
            k.optimize(
                w.data(), m.data(), v.data(), base.data(), n,
                rates_of({.lr = 0.01F, .correction1 = 0.1F, .correction2 = 0.001F, .gradient_scale = 0.7F}));
            for (const auto* part : {&sum, &difference, &scaled, &added, &w, &m, &v})
                out.insert(out.end(), part->begin(), part->end());
            return out;
        };
        const std::vector<float> mine = all(set);
        const std::vector<float> theirs = all(best);
        for (std::size_t i = 0; i < mine.size(); ++i)
            ASSERT_EQ(mine[i], theirs[i]) << set.target << " n " << n << " at " << i;
    }
    const std::vector<std::uint32_t> rows = {3, 0, 8, 3, 5, 1, 2};
    const std::vector<float> weight = numbers(7, 11);
    const std::vector<float> direction = numbers(64, 12);
    for (int variant = 0; variant < 20; ++variant) {
        Array<float> tile(9 * 64);
        for (std::size_t i = 0; i < tile.size(); ++i)
            tile[i] = std::sin(static_cast<float>(i) + static_cast<float>(variant));
        const TileSource source = {tile.data(), rows.data(), weight.data(), 7};
        for (const std::int64_t width : {16, 32, 64}) {
            std::vector<float> mine(static_cast<std::size_t>(width)), theirs(mine);
            const float my_square =
                set.add_tiles(&source, 1, width, width, 0.3F, direction.data(), false, mine.data());
            const float their_square =
                best.add_tiles(&source, 1, width, width, 0.3F, direction.data(), false, theirs.data());
            EXPECT_EQ(mine, theirs) << width;
            EXPECT_EQ(my_square, their_square)
                << width << ": the gradient's norm decides the clipping, so the next step";
        }
    }
}

TEST(Kernels, TheChosenSetIsOneOfThem) {
    bool found = false;
    for (const Kernels& set : all_kernels()) found = found || std::strcmp(set.target, kernels().target) == 0;
    EXPECT_TRUE(found);
    EXPECT_STREQ(kernels().target, kernels().target);
}

}  // namespace
}  // namespace strata::device
