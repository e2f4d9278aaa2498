// The CUDA device beside the CPU device: the same bits of pre-activations, selections and codes, whatever the
// product is rounded to and in whatever order blocks run; everything else to rounding.

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "comm/self.h"
#include "device/cuda/cuda_device.h"
#include "support/cpu_inside.h"
#include "support/inside.h"
#include "support/problem.h"
#include "support/test_device.h"

namespace strata {
namespace {

using device::CodeSet;
using test::Pair;

constexpr std::size_t rows = 61, n = 37, width = 300;

// Both devices with the same problem.
struct Sides {
    test::Problem p;
    device::CpuDevice cpu{2};
    std::unique_ptr<device::CudaDevice> cuda;
    device::Tensors of_cpu, of_cuda;
    std::vector<float> target, draw, probability;

    Sides(test::Problem problem, const device::Shape& shape, const char* product)
        : p(std::move(problem)),
          cuda(std::make_unique<device::CudaDevice>(
              0, device::GpuOptions{product}, device::cuda::ProductTile{24, 96, 5, 24 * width, 90 * n})) {
        Random random(9, Purpose::synthetic);
        for (std::size_t i = 0; shape.transcoder && i < rows * n; ++i)
            target.push_back(0.5F * random.normal());
        for (std::size_t b = 0; b < rows; ++b) draw.push_back(random.uniform());
        for (std::size_t j = 0; j < width; ++j) probability.push_back(j % 2 == 0 ? 0.5F : 0.0F);
        of_cpu = prepare(cpu, shape);
        of_cuda = prepare(*cuda, shape);
    }

    device::Tensors prepare(device::Device& device, const device::Shape& shape) {
        device.prepare(rows, n, width, 1);
        device::Tensors parameters = test::put(p.sae, device, shape);
        device.center({p.x, rows, target}, parameters);
        return parameters;
    }

    // visit(device, parameters) for both.
    template <typename Visit>
    void both(const Visit& visit) {
        visit(static_cast<device::Device&>(cpu), of_cpu);
        visit(static_cast<device::Device&>(*cuda), of_cuda);
    }
    void mask() {
        both([&](device::Device& device, const device::Tensors&) { device.mask({draw, probability}); });
    }
    void expect_same_candidates() {
        EXPECT_TRUE(test::cpu::candidates_in(cpu) == test::candidates_in(*cuda));
    }
    void expect_same_codes(CodeSet set) {
        const std::vector<Pair> expected = test::cpu::codes_of(cpu, set);
        EXPECT_TRUE(expected == test::codes_of(*cuda, set)) << static_cast<int>(set);
        EXPECT_FALSE(expected.empty());
    }
};

device::Shape plain_shape() {
    device::Shape shape;
    shape.n = n;
    shape.width = width;
    return shape;
}

struct Case {
    const char* product;
    test::Awkward awkward;
};

class AgainstCpu : public testing::TestWithParam<Case> {
  protected:
    void TearDown() override { test::set_order(0); }
};

TEST_P(AgainstCpu, CandidatesAndCodesHaveTheSameBits) {
    const test::Problem p = test::make_problem(rows, n, width, GetParam().awkward);
    Sides sides(p, plain_shape(), GetParam().product);
    const float unit = GetParam().awkward == test::Awkward::huge ? 1e6F : 1;
    for (const std::uint64_t order : {0, 1}) {
        test::set_order(order);
        for (const float at_least : {0.0F, 0.3F, 0.9F}) {
            sides.both([&](device::Device& device, const device::Tensors& sae) {
                EXPECT_TRUE(test::screen_above(device, sae, unit * at_least));
            });
            sides.expect_same_candidates();
        }
        for (const std::int64_t k : {1, 9, 200}) {
            sides.both([&](device::Device& device, const device::Tensors& sae) {
                device.screen_row_top(sae, k, {});
            });
            sides.expect_same_candidates();
        }
        sides.both([&](device::Device& device, const device::Tensors& sae) {
            EXPECT_TRUE(test::screen_above(device, sae, 0));
            device.cap_rows(20);
            std::vector<float> values;
            device.candidate_values(values);
            device.keep(CodeSet::main, values[values.size() / 2], 1, false);
            device.keep_row_top(CodeSet::observed, 3, false);
        });
        sides.expect_same_candidates();
        sides.expect_same_codes(CodeSet::main);
        sides.expect_same_codes(CodeSet::observed);
    }
}

// Tiles as large as they are in use: several warps share the columns of a row, the last tile is a shorter
// one.
TEST(TilesAgainstCpu, OfFullSizeHaveTheSameCandidates) {
    constexpr std::size_t some = 10, wide = 4096 + 1025;
    const test::Problem p = test::make_problem(some, n, wide);
    device::CpuDevice cpu{1};
    device::CudaDevice cuda(0, {});
    std::vector<Pair> found[2][3];
    int side = 0;
    for (device::Device* device : {static_cast<device::Device*>(&cpu), static_cast<device::Device*>(&cuda)}) {
        const auto candidates = [&] {
            return side == 0 ? test::cpu::candidates_in(cpu) : test::candidates_in(cuda);
        };
        device->prepare(some, n, wide, 1);
        const device::Tensors sae = test::put(p.sae, *device);
        device->center({p.x, some}, sae);
        for (const int i : {0, 1}) {
            EXPECT_TRUE(test::screen_above(*device, sae, i == 0 ? 0.0F : 0.4F));
            found[side][i] = candidates();
        }
        device->screen_row_top(sae, 7, {});
        found[side++][2] = candidates();
    }
    for (const int i : {0, 1, 2}) {
        EXPECT_FALSE(found[0][i].empty());
        EXPECT_TRUE(found[0][i] == found[1][i]);
    }
}

// A device that holds 12 rows at a time beside one that holds all: what is asked of the whole batch, and,
// range by range, of its rows. The optimiser has changed b_dec meanwhile, which rows that are made again do
// not see.
TEST(HeldRowsAgainstAll, AreThoseOfTheWholeBatch) {
    test::Problem p = test::make_problem(rows, n, width);
    device::Shape shape = plain_shape();
    shape.prefixes = {40, width};
    struct Found {
        std::vector<std::uint64_t> few = std::vector<std::uint64_t>(2048), all = few;
        std::vector<Pair> candidates, codes;
        std::vector<float> values, norms, row = std::vector<float>(n), gradients;
        std::vector<double> residual = std::vector<double>(n), y = std::vector<double>(n);
        double y_square = 0;
        device::DecodeSums sums;
    } of[2];
    for (const int held : {0, 12}) {
        Found& found = of[held == 0 ? 0 : 1];
        device::CudaDevice device(0, {}, {24, 96, 5, 24 * width, 90 * n});
        device.hold_at_most(held);
        device.prepare(rows, n, width, 1);
        const device::Tensors sae = test::put(p.sae, device, shape);
        device.center({p.x, rows}, sae);
        device.pre_activation_histogram(sae, 10, found.few);
        device.pre_activation_histogram(sae, rows, found.all);
        EXPECT_TRUE(test::screen_above(device, sae, 0.3F));
        found.candidates = test::candidates_in(device);
        device.candidate_values(found.values);
        device.keep(CodeSet::main, found.values[found.values.size() / 2], 1, false);
        found.codes = test::codes_of(device, CodeSet::main);
        const std::int64_t step = held == 0 ? rows : held;
        for (std::int64_t first = 0; first < std::ssize(p.x) / std::ssize(found.row); first += step) {
            device.take_rows(first, std::min<std::int64_t>(first + step, rows));
            device.decode(CodeSet::main, sae, 0.02F);
            device.add_residual_columns(sae, found.residual);
        }
        found.gradients = test::gradients_in(device, CodeSet::main);
        found.sums = device.decode_sums(CodeSet::main);
        device.residual_norms(found.norms);
        const std::vector<float> moved(n, 7);
        device.upload(std::as_bytes(std::span(moved)), sae.b_dec.data());
        device.centered_row(5, found.row);
        found.y_square = device.output_columns(sae, found.y);
    }
    EXPECT_FALSE(of[0].codes.empty());
    EXPECT_EQ(of[1].few, of[0].few);
    EXPECT_EQ(of[1].all, of[0].all);
    EXPECT_TRUE(of[1].candidates == of[0].candidates);
    EXPECT_EQ(of[1].values, of[0].values);
    EXPECT_TRUE(of[1].codes == of[0].codes);
    EXPECT_EQ(of[1].gradients, of[0].gradients);
    EXPECT_EQ(of[1].norms, of[0].norms);
    EXPECT_EQ(of[1].row, of[0].row);
    EXPECT_EQ(of[1].sums.squared_error, of[0].sums.squared_error);
    EXPECT_EQ(of[1].sums.prefix_error, of[0].sums.prefix_error);
    EXPECT_NEAR(of[1].y_square, of[0].y_square, 1e-12 * of[0].y_square);
    EXPECT_LT(test::relative_difference(of[1].y, of[0].y), 1e-12);
    EXPECT_LT(test::relative_difference(of[1].residual, of[0].residual), 1e-12);
}

TEST_P(AgainstCpu, MaskedSelectionsAreTheSame) {
    Sides sides(test::make_problem(rows, n, width, GetParam().awkward), plain_shape(), GetParam().product);
    sides.mask();
    sides.both([&](device::Device& device, const device::Tensors& sae) {
        device.screen_row_top(sae, 6, {});
        device.keep_row_top(CodeSet::observed, 6, false);
        device.keep_row_top(CodeSet::main, 6, true);
        device.keep_unmasked(CodeSet::observed, CodeSet::auxiliary);
    });
    sides.expect_same_candidates();
    for (const CodeSet set : {CodeSet::observed, CodeSet::main, CodeSet::auxiliary})
        sides.expect_same_codes(set);
    const auto self = make_self_communicator();
    for (const bool masked : {false, true}) {
        for (const std::uint64_t k : {0, 1, 40, 200, 100000}) {
            std::vector<Selection> found;
            sides.both([&](device::Device& device, const device::Tensors&) {
                found.push_back(device.select_largest(*self, nullptr, k, masked));
            });
            EXPECT_EQ(found[1].threshold, found[0].threshold);
            EXPECT_EQ(found[1].available, found[0].available);
            EXPECT_EQ(found[1].ties_to_take, found[0].ties_to_take);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Products, AgainstCpu,
                         testing::Values(Case{"float32", test::Awkward::none},
                                         Case{"tf32", test::Awkward::none}, Case{"bf16", test::Awkward::none},
                                         Case{"bf16", test::Awkward::equal_latents},
                                         Case{"tf32", test::Awkward::large_biases},
                                         Case{"bf16", test::Awkward::huge}),
                         [](const auto& info) {
                             return std::string(info.param.product) + "_" + test::name_of(info.param.awkward);
                         });

// Numbers just below the middle of two that the product's operands can be: what is lost adds up, on either
// side or both, and pairs pass whose product is the same as that of others. Some latents have a large element
// where all rows have none, and with it a larger bound than they need.
TEST(RoundingsAgainstCpu, ThatAddUpHideNothing) {
    for (const auto& [product, above_one] :
         {std::pair{"float32", 0x1.fp-24F}, std::pair{"tf32", 0x1.fcp-11F}, std::pair{"bf16", 0x1.fcp-9F}}) {
        SCOPED_TRACE(product);
        test::Problem p = test::make_problem(rows, n, width);
        std::ranges::fill(p.sae.b_enc, 0.0F);
        std::ranges::fill(p.sae.b_dec, 0.0F);
        for (std::size_t i = 0; i < rows * n; ++i)
            p.x[i] = i % n == n - 1 ? 0 : i / n % 2 == 0 ? 1 : 1 + above_one;
        for (std::size_t i = 0; i < width * n; ++i)
            p.sae.w_enc[i] = i % n == n - 1   ? (i / n % 3 == 0 ? 50.0F : 0.0F)
                             : i / n % 2 == 0 ? 1
                                              : 1 + above_one;
        Sides sides(p, plain_shape(), product);
        const float one = n - 1;
        for (const float at_least : {one, one * (1 + above_one / 2), one * (1 + above_one),
                                     one * (1 + above_one) * (1 + above_one / 2)}) {
            sides.both([&](device::Device& device, const device::Tensors& sae) {
                EXPECT_TRUE(test::screen_above(device, sae, at_least));
            });
            sides.expect_same_candidates();
        }
        for (const std::int64_t k : {1, 40, 140, 160}) {
            sides.both([&](device::Device& device, const device::Tensors& sae) {
                device.screen_row_top(sae, k, {});
            });
            sides.expect_same_candidates();
        }
    }
}

// Rules of one pre-activation at a time, with everything that they can have.
struct RuleCase {
    const char* name;
    bool transcoder = false, skip = false, prefixes = false, free_rows = false, gains = false, frozen = false;
    bool masked = false;
    float window = 0;
};

void PrintTo(const RuleCase& c, std::ostream* out) {
    *out << c.name;
}

class RulesAgainstCpu : public testing::TestWithParam<RuleCase> {
  protected:
    std::vector<float> threshold, gain, offset, penalty, shrink;
    device::Gate gate;

    device::Shape shape() const {
        device::Shape s = plain_shape();
        s.transcoder = GetParam().transcoder;
        s.skip = GetParam().skip;
        s.unit_rows = !GetParam().free_rows;
        if (GetParam().prefixes) s.prefixes = {7, 120, width};
        return s;
    }
    // The threshold, or one a little above it, of which no pre-activation of the latent is so near that the
    // order of a product's sums decides.
    float clear_threshold(const test::Problem& p, std::size_t j, float from) const {
        for (;; from += 1e-5F) {
            double nearest = 1;
            for (std::size_t b = 0; b < rows; ++b) {
                double z = p.sae.b_enc[j];
                for (std::size_t i = 0; i < n; ++i)
                    z += static_cast<double>(p.sae.w_enc[j * n + i]) *
                         (p.x[b * n + i] - (GetParam().transcoder ? 0.0F : p.sae.b_dec[i]));
                for (const float edge : {-0.5F, 0.0F, 0.5F})
                    nearest = std::min(nearest, std::abs(z - from - edge * GetParam().window));
            }
            if (nearest > 2e-6) return from;
        }
    }
    test::Problem problem() {
        test::Problem p = test::make_problem(rows, n, width);
        Random random(4, Purpose::synthetic);
        for (std::size_t j = 0; j < width; ++j) {
            threshold.push_back(clear_threshold(p, j, 0.2F + 0.3F * random.uniform()));
            gain.push_back(0.7F + 0.5F * random.uniform());
            offset.push_back(0.2F * random.normal());
            penalty.push_back(0.01F * random.uniform());
            shrink.push_back(0.02F * random.uniform());
        }
        for (std::size_t i = 0; GetParam().free_rows && i < p.sae.w_dec.size(); ++i) p.sae.w_dec[i] *= 0.7F;
        for (std::size_t i = 0; GetParam().skip && i < n * n; ++i)
            p.sae.skip.push_back(0.05F * random.normal());
        gate.threshold = threshold;
        if (GetParam().gains) {
            gate.gain = gain;
            gate.offset = offset;
        }
        gate.window = GetParam().window;
        gate.penalty = penalty;
        gate.frozen = GetParam().frozen;
        return p;
    }
    void expect_close(const device::LatentSums& a, const device::LatentSums& b, const char* what) {
        EXPECT_EQ(a.count, b.count) << what;
        for (const auto& [of_a, of_b] : {std::pair{&a.value, &b.value}, std::pair{&a.gradient, &b.gradient},
                                         std::pair{&a.value_gradient, &b.value_gradient}})
            EXPECT_LT(test::relative_difference(*of_b, *of_a), 2e-5) << what;
    }
    void expect_close(const device::DecodeSums& a, const device::DecodeSums& b) {
        EXPECT_NEAR(b.squared_error, a.squared_error, 1e-5 * a.squared_error);
        EXPECT_NEAR(b.prefix_error, a.prefix_error, 1e-5 * a.prefix_error);
        EXPECT_NEAR(b.l1, a.l1, 1e-5 * a.l1);
        EXPECT_NEAR(b.cosine, a.cosine, 1e-5 * rows);
        EXPECT_NEAR(b.inner, a.inner, 1e-5 * a.x_hat_square);
        EXPECT_NEAR(b.x_hat_square, a.x_hat_square, 1e-5 * a.x_hat_square);
        EXPECT_EQ(b.active, a.active);
    }
    void expect_close(const reference::Sae<float>& a, const reference::Sae<float>& b) {
        for (int i = 0; i < reference::Sae<float>::tensors; ++i)
            EXPECT_LT(test::relative_difference(b.tensor(i), a.tensor(i)), 2e-5)
                << reference::Sae<float>::names[i];
    }
};

TEST_P(RulesAgainstCpu, ListsMakeTheSameStep) {
    const test::Problem p = problem();
    Sides sides(p, shape(), "bf16");
    if (GetParam().masked) sides.mask();
    struct Result {
        device::DecodeSums main, frozen;
        device::LatentSums window, observed;
        std::array<device::LatentSums, 2> sums;
        std::uint64_t left_out = 0;
        double norm = 0;
        std::vector<double> residual = std::vector<double>(n), y = std::vector<double>(n);
        reference::Sae<float> gradient;
    } of[2];
    std::vector<float> limits = threshold;
    for (float& limit : limits) limit = std::max(0.0F, limit - gate.window / 2);
    std::vector<device::SetUse> uses = {{.set = CodeSet::main, .gain = gate.gain}};
    if (gate.frozen)
        uses.push_back({.set = CodeSet::gate, .shift = penalty, .decoder = false});
    else
        uses.front().shift = penalty;
    int side = 0;
    sides.both([&](device::Device& device, const device::Tensors& sae) {
        Result& out = of[side++];
        device::Tensors gradient = test::put(p.sae, device, shape());
        for (const std::int64_t first : {0, 24, 48}) {  // ranges of rows
            device.take_rows(first, std::min<std::int64_t>(first + 24, rows));
            ASSERT_TRUE(device.screen_above(sae, limits, 0));
            device.keep_gate(gate, sae, GetParam().masked);
            if (gate.frozen) device.decode(CodeSet::gate, sae, 0.03F);
            device.decode(CodeSet::main, sae, 0.03F);
            if (gate.window > 0) {
                device.backprop(CodeSet::window, sae);
                device.latent_sums(CodeSet::window, out.window, width);
            }
            if (!GetParam().masked) device.keep_unmasked(CodeSet::main, CodeSet::observed);
            out.left_out += device.observe(sae);
            device.latent_sums(CodeSet::observed, out.observed, width);
            device.accumulate(uses, GetParam().free_rows ? shrink : std::vector<float>{}, sae, gradient,
                              std::span(out.sums).first(uses.size()), [](std::int64_t, std::int64_t) {});
        }
        if (gate.frozen) out.frozen = device.decode_sums(CodeSet::gate);
        out.main = device.decode_sums(CodeSet::main);
        out.norm = device.gradient_norm();
        device.add_residual_columns(sae, out.residual);
        device.output_columns(sae, out.y);
        out.gradient = test::get(gradient, device);
    });
    for (const CodeSet set : {CodeSet::main, CodeSet::observed}) sides.expect_same_codes(set);
    if (gate.window > 0) sides.expect_same_codes(CodeSet::window);
    if (gate.frozen) sides.expect_same_codes(CodeSet::gate);
    expect_close(of[0].main, of[1].main);
    expect_close(of[0].observed, of[1].observed, "observed");
    expect_close(of[0].sums[0], of[1].sums[0], "main");
    if (gate.frozen) {
        expect_close(of[0].frozen, of[1].frozen);
        expect_close(of[0].sums[1], of[1].sums[1], "gate");
    }
    if (gate.window > 0) expect_close(of[0].window, of[1].window, "window");
    EXPECT_EQ(of[0].left_out, of[1].left_out);
    EXPECT_NEAR(of[1].norm, of[0].norm, 1e-5 * of[0].norm);
    EXPECT_LT(test::relative_difference(of[1].residual, of[0].residual), 1e-5);
    EXPECT_LT(test::relative_difference(of[1].y, of[0].y), 1e-5);
    expect_close(of[0].gradient, of[1].gradient);
}

TEST_P(RulesAgainstCpu, DenseProductsMakeTheSameStep) {
    const test::Problem p = problem();
    Sides sides(p, shape(), "float32");
    if (GetParam().masked) sides.mask();
    gate.observe = true;
    device::DenseReport of[2];
    reference::Sae<float> gradients[2];
    double norms[2] = {};
    int side = 0;
    const auto make = [&](device::Device& device, const device::Tensors& sae, device::Tensors& gradient) {
        return device.dense(gate, sae, 0.03F, GetParam().free_rows ? shrink : std::vector<float>{}, gradient);
    };
    sides.both([&](device::Device& device, const device::Tensors& sae) {
        device::Tensors gradient = test::put(p.sae, device, shape());
        of[side] = make(device, sae, gradient);
        norms[side] = device.gradient_norm();
        gradients[side++] = test::get(gradient, device);
    });
    expect_close(of[0].sums, of[1].sums);
    EXPECT_NEAR(of[1].frozen_error, of[0].frozen_error, 1e-5 * of[0].frozen_error);
    expect_close(of[0].main, of[1].main, "main");
    expect_close(of[0].observed, of[1].observed, "observed");
    expect_close(of[0].window, of[1].window, "window");
    expect_close(of[0].gate, of[1].gate, "gate");
    EXPECT_NEAR(norms[1], norms[0], 1e-5 * norms[0]);
    expect_close(gradients[0], gradients[1]);

    // Whichever block and thread comes first.
    test::set_order(6);
    device::Tensors gradient = test::put(p.sae, *sides.cuda, shape());
    const device::DenseReport again = make(*sides.cuda, sides.of_cuda, gradient);
    test::set_order(0);
    for (const auto sums : {&device::DenseReport::main, &device::DenseReport::observed,
                            &device::DenseReport::window, &device::DenseReport::gate})
        for (const auto part :
             {&device::LatentSums::count, &device::LatentSums::value, &device::LatentSums::gradient})
            EXPECT_EQ((again.*sums).*part, (of[1].*sums).*part);
    EXPECT_EQ(test::get(gradient, *sides.cuda).b_enc, gradients[1].b_enc);
}

INSTANTIATE_TEST_SUITE_P(
    Rules, RulesAgainstCpu,
    testing::Values(RuleCase{.name = "relu"}, RuleCase{.name = "window", .window = 0.2F},
                    RuleCase{.name = "free_rows", .free_rows = true},
                    RuleCase{.name = "gated", .gains = true, .frozen = true},
                    RuleCase{.name = "masked_window", .masked = true, .window = 0.2F},
                    RuleCase{.name = "transcoder_prefixes", .transcoder = true, .prefixes = true},
                    RuleCase{.name = "all",
                             .transcoder = true,
                             .skip = true,
                             .prefixes = true,
                             .gains = true,
                             .frozen = true,
                             .masked = true}),
    [](const auto& info) { return std::string(info.param.name); });

// SAEs of a stream take the same batch in turn: it is copied to the GPU once.
TEST(BatchesAgainstCpu, RowsOfAnEqualNumberServeAgain) {
    const test::Problem p = test::make_problem(rows, n, width);
    Sides sides(p, plain_shape(), "bf16");
    for (const std::uint64_t number : {0, 7, 7, 8, 8, 0}) {
        const test::Problem other = test::make_problem(rows, n, width, test::Awkward::none, 100 + number);
        sides.both([&](device::Device& device, device::Tensors& sae) {
            for (const float shift : {0.0F, 0.1F}) {
                std::vector<float> b_dec = p.sae.b_dec;
                for (float& b : b_dec) b += shift;
                test::put(b_dec, sae.b_dec, device);
                device.center({other.x, rows, {}, number}, sae);
                EXPECT_TRUE(test::screen_above(device, sae, 0.4F));
            }
        });
        sides.expect_same_candidates();
    }
}

TEST(BatchesAgainstCpu, ARankMayHaveNoRows) {
    const test::Problem p = test::make_problem(rows, n, width);
    device::Shape shape = plain_shape();
    shape.transcoder = shape.skip = true;
    test::Problem with_skip = p;
    with_skip.sae.skip.assign(n * n, 0.1F);
    Sides sides(with_skip, shape, "bf16");
    const std::vector<float> threshold(width, 0.1F);
    device::Gate gate;
    gate.threshold = threshold;
    const device::SetUse use{.set = CodeSet::main};
    sides.both([&](device::Device& device, device::Tensors& sae) {
        device::Tensors gradient = test::put(with_skip.sae, device, shape);
        device.center({{}, 0, {}}, sae);
        EXPECT_TRUE(test::screen_above(device, sae, 0.2F));
        device.screen_row_top(sae, 3, {});
        device.keep(CodeSet::main, 0, 0, false);
        device.decode(CodeSet::main, sae, 0.1F);
        EXPECT_EQ(device.decode_sums(CodeSet::main).squared_error, 0);
        device::LatentSums sums;
        const auto ignore = [](std::int64_t, std::int64_t) {};
        device.accumulate({&use, 1}, {}, sae, gradient, {&sums, 1}, ignore);
        EXPECT_EQ(device.gradient_norm(), 0);
        EXPECT_EQ(test::square_norm(device, gradient), 0);
        test::put(with_skip.sae, gradient, device);
        device.dense(gate, sae, 0.1F, {}, gradient);
        EXPECT_EQ(device.gradient_norm(), 0);
        EXPECT_EQ(test::square_norm(device, gradient), 0);
        std::vector<float> values;
        device.candidate_values(values);
        EXPECT_TRUE(values.empty());
    });
}

// The optimisers and averages: every operation is rounded alike.
TEST(OptimisersAgainstCpu, UpdatesHaveTheSameBits) {
    using Kind = device::OptimizerStep::Kind;
    const test::Problem p = test::make_problem(rows, n, width), g = test::make_problem(rows, n, width, {}, 2);
    for (const Kind kind : {Kind::adam, Kind::adam_schedule_free, Kind::signum}) {
        Sides sides(p, plain_shape(), "bf16");
        reference::Sae<float> of[2][3];
        int side = 0;
        sides.both([&](device::Device& device, device::Tensors& sae) {
            const device::Tensors gradient = test::put(g.sae, device);
            device::Tensors first = test::put(p.sae, device);
            device::Tensors second = device::make_tensors(device, sae);
            for (int t = 0; t < 3; ++t)
                device.update(sae, gradient, first, second,
                              {.kind = kind,
                               .lr = 0.01F,
                               .correction1 = 0.1F,
                               .correction2 = 0.001F,
                               .gradient_scale = 0.5F,
                               .average = 0.3F},
                              10, 250);
            if (kind != Kind::adam) device.average(sae, first, 0.9F, 10, 250);
            of[side][0] = test::get(sae, device);
            of[side][1] = test::get(first, device);
            of[side++][2] = test::get(second, device);
        });
        for (int t = 0; t < 3; ++t)
            for (int i = 0; i < 4; ++i)
                EXPECT_EQ(of[0][t].tensor(i), of[1][t].tensor(i))
                    << t << " " << reference::Sae<float>::names[i];
    }
}

}  // namespace
}  // namespace strata
