// The parts of the reference's step that have no gradient: adaptive masking, averaging, resampling, order.

#include <gtest/gtest.h>

#include "support/problem.h"
#include "support/reference.h"

namespace strata {
namespace {

using reference::Batch;
using reference::Kind;
using reference::Mask;
using reference::Sae;
using reference::StepRules;

constexpr std::size_t rows = 14, n = 5, width = 16;
constexpr Kind kinds[] = {Kind::relu,     Kind::topk,  Kind::batch_topk,
                          Kind::jumprelu, Kind::gated, Kind::matryoshka};

StepRules rules_of(Kind kind) {
    StepRules rules;
    rules.kind = kind;
    rules.k = 3;
    rules.l1 = 0.02;
    rules.l0 = 0.02;
    rules.bandwidth = 0.2;
    rules.dead_after = 1000000;
    rules.rates.lr = 0.01;
    if (kind == Kind::matryoshka) rules.prefixes = {3, 9, width};
    return rules;
}

Sae<double> start(const StepRules& rules) {
    Sae<double> sae(test::make_problem(rows, n, width).sae);
    reference::start_latent(sae, rules, 0.2);
    return sae;
}

std::vector<double> rows_of(std::uint64_t seed) {
    return test::widen(test::make_problem(rows, n, width, test::Awkward::none, seed).x);
}

std::vector<double> uniforms(std::size_t count, std::uint64_t seed) {
    Random random(seed, Purpose::synthetic);
    std::vector<double> u(count);
    for (double& v : u) v = random.uniform();
    return u;
}

class ReferenceStep : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ReferenceStep, testing::ValuesIn(kinds),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// Against the losses themselves, with the code left out or put in.
TEST_P(ReferenceStep, ContributionIsTheChangeOfTheErrorWithoutTheLatent) {
    for (const bool with_prefixes : {false, true}) {
        StepRules rules = rules_of(GetParam());
        rules.prefixes = with_prefixes ? std::vector<std::size_t>{2, 7, width} : std::vector<std::size_t>{};
        rules.atm = reference::AtmRules{};
        Sae<double> sae = start(rules);
        for (double& v : sae.w_dec) v *= 1.1;
        const Batch<double> batch{rows, rows_of(1), {}};
        Mask kept;
        for (const double u : uniforms(rows * width, 3)) kept.push_back(u < 0.7);
        const reference::Forward<double> at = reference::forward(sae, batch, rules, kept);
        const auto statistics = reference::atm_statistics(sae, rules, at, kept, rows);
        const auto error_of_row = [&](const std::vector<double>& f, std::size_t b) {
            double sum = 0;
            for (const auto& r : reference::residuals_of(sae, batch, rules, f))
                for (std::size_t c = 0; c < n; ++c) sum += r[b * n + c] * r[b * n + c];
            return sum;
        };
        int masked = 0;
        for (std::size_t j = 0; j < width; ++j) {
            double magnitude = 0, frequency = 0, contribution = 0;
            for (std::size_t b = 0; b < rows; ++b) {
                const std::size_t i = b * width + j;
                if (at.unmasked[i] == 0) continue;
                magnitude += at.unmasked_f[i] / rows;
                frequency += 1.0 / rows;
                std::vector<double> with = at.f, without = at.f;
                with[i] = at.unmasked_f[i];
                without[i] = 0;
                EXPECT_EQ(at.f[i] == 0, kept[i] == 0);
                masked += kept[i] == 0;
                contribution += (error_of_row(without, b) - error_of_row(with, b)) / rows;
            }
            EXPECT_NEAR(statistics[0][j], magnitude, 1e-12);
            EXPECT_NEAR(statistics[1][j], frequency, 1e-12);
            EXPECT_NEAR(statistics[2][j], std::max(contribution, 0.0), 1e-12);
        }
        EXPECT_GT(masked, 5);
    }
}

TEST(ReferenceAtm, ProbabilitiesFollowFromTheAverages) {
    reference::AtmRules rules{.decay = 0.5, .c = 0.5, .r = 2, .start_step = 1, .ramp_steps = 2};
    reference::Atm<double> atm;
    EXPECT_TRUE(reference::atm_state(atm, rules, 5, 2).importance.empty());
    EXPECT_EQ(reference::atm_state(atm, rules, 5, 2).mean_probability, 0);
    reference::add_to_averages<double>(atm, {{{1, 3}, {0.5, 0.5}, {0, 4}}}, rules);
    EXPECT_EQ(atm.average[0], (std::vector<double>{0.5, 1.5}));
    // Over their means: (1/2, 3/2), (1, 1), (0, 2).
    const auto state = reference::atm_state(atm, rules, 2, 2);
    EXPECT_NEAR(state.importance[0], 0.5, 1e-15);
    EXPECT_NEAR(state.importance[1], 1.5, 1e-15);
    EXPECT_NEAR(state.threshold, 1.25, 1e-15);  // 1 + 0.5 * 0.5
    EXPECT_NEAR(state.probability[0], 1 - std::exp(-2 * 0.75 / 1.25), 1e-15);
    EXPECT_EQ(state.probability[1], 0);
    EXPECT_EQ(state.above, 0.5);
    EXPECT_EQ(reference::atm_state(atm, rules, 0, 2).mean_probability, 0);
    EXPECT_NEAR(reference::atm_state(atm, rules, 1, 2).probability[0], 1 - std::exp(-0.75 / 1.25), 1e-15);
    rules.geometric = true;
    EXPECT_EQ(reference::atm_state(atm, rules, 2, 2).importance[0], 0);
    EXPECT_NEAR(reference::atm_state(atm, rules, 2, 2).importance[1], std::cbrt(3), 1e-15);
    rules.weights = {1, 0, 0};
    EXPECT_NEAR(reference::atm_state(atm, rules, 2, 2).importance[0], 0.5, 1e-15);
    rules.c = -3;  // theta <= 0
    EXPECT_LT(reference::atm_state(atm, rules, 2, 2).threshold, 0);
    EXPECT_EQ(reference::atm_state(atm, rules, 2, 2).mean_probability, 0);
}

TEST(ReferenceAtm, MasksAreByLatentForAllRowsOrNestedWithinARow) {
    const std::vector<double> p = {0.3, 0, 0.8};
    EXPECT_EQ(reference::kept_pairs(p, {0.3, 0, 0.79}, 2, false), (Mask{1, 1, 0, 1, 1, 0}));
    EXPECT_EQ(reference::kept_pairs(p, {0.29, 0.5}, 2, true), (Mask{0, 1, 0, 1, 1, 0}));
}

TEST(ReferenceAtm, ARevivedLatentHasTheMeansOfTheOthers) {
    reference::Atm<double> atm;
    atm.average = {{{1, 3, 8, 0}, {0.1, 0.3, 0.8, 0}, {0, 0, 6, 9}}};
    reference::reset_averages(atm, {0, 3});
    EXPECT_EQ(atm.average[0], (std::vector<double>{5.5, 3, 8, 5.5}));
    EXPECT_EQ(atm.average[2], (std::vector<double>{3, 0, 6, 3}));
    reference::reset_averages(atm, {0, 1, 2, 3});
    EXPECT_EQ(atm.average[0], (std::vector<double>{5.5, 3, 8, 5.5}));
}

// Before the selection the places of masked pairs go to others; after it they stay empty.
TEST(ReferenceAtm, PlaceDecidesWhetherMaskedPairsAreReplaced) {
    for (const Kind kind : {Kind::topk, Kind::batch_topk, Kind::matryoshka}) {
        StepRules rules = rules_of(kind);
        const Sae<double> sae = start(rules);
        const Batch<double> batch{rows, rows_of(1), {}};
        Mask kept(rows * width, 1);
        for (std::size_t i = 0; i < kept.size(); i += 3) kept[i] = 0;
        rules.atm = reference::AtmRules{.before_selection = true};
        const auto before = reference::forward(sae, batch, rules, kept);
        rules.atm->before_selection = false;
        const auto after = reference::forward(sae, batch, rules, kept);
        EXPECT_EQ(before.unmasked, after.unmasked);
        EXPECT_GT(before.l0, after.l0);
        for (std::size_t i = 0; i < kept.size(); ++i) {
            EXPECT_EQ(after.selected[i] != 0, after.unmasked[i] != 0 && kept[i] != 0);
            if (after.selected[i] != 0) {
                EXPECT_NE(before.selected[i], 0);
            }
            if (kept[i] == 0) {
                EXPECT_EQ(before.f[i], 0);
            }
        }
    }
}

// Silence goes by the rule without masks, and a masked latent gets no gradient.
TEST_P(ReferenceStep, MaskedLatentsHaveNoGradientAndAreNotSilent) {
    StepRules rules = rules_of(GetParam());
    rules.atm = reference::AtmRules{.decay = 0.9, .c = 1, .r = 3};
    reference::Trained<double> trained(start(rules));
    const reference::Draws none{std::vector<double>(width, 0.999), {}};
    auto result = reference::step(trained, rows_of(1), rows, rules, none);
    EXPECT_EQ(result.atm.mean_probability, 0) << "there is no average before the first step";
    result = reference::step(trained, rows_of(1), rows, rules, none);
    EXPECT_GT(result.atm.mean_probability, 0.3);
    EXPECT_EQ(result.masked_share, 0);
    const std::vector<std::uint64_t> silent = trained.silent;
    const reference::Draws all{std::vector<double>(width, 0), {}};
    result = reference::step(trained, rows_of(2), rows, rules, all);
    EXPECT_GT(result.masked_share, 0.3);
    for (std::size_t j = 0; j < width; ++j) {
        bool fired = false;
        for (std::size_t b = 0; b < rows; ++b) fired = fired || result.unmasked[b * width + j] != 0;
        EXPECT_EQ(trained.silent[j], fired ? 0 : silent[j] + rows);
        if (result.atm.probability[j] == 0) continue;
        for (std::size_t b = 0; b < rows; ++b) {
            EXPECT_EQ(result.mask[b * width + j], 0);
            if (!result.forward.window.empty()) {
                EXPECT_EQ(result.forward.window[b * width + j], 0);
            }
        }
        for (std::size_t c = 0; c < n; ++c) {
            EXPECT_EQ(result.gradient.w_enc[j * n + c], 0);
            EXPECT_EQ(result.gradient.w_dec[j * n + c], 0);
        }
        EXPECT_EQ(result.gradient.b_enc[j], 0);
        for (std::size_t i = j; i < result.gradient.latent.size(); i += width)
            EXPECT_EQ(result.gradient.latent[i], 0);
    }
}

// Without masks the averages are those of the plain statistics, and the auxiliary term does not see masks.
TEST(ReferenceAtm, AuxiliaryTermIgnoresMasks) {
    StepRules rules = rules_of(Kind::batch_topk);
    rules.aux_k = 3;
    rules.aux_coefficient = 0.5;
    const Sae<double> sae = start(rules);
    const Batch<double> batch{rows, rows_of(1), {}};
    const std::vector<std::uint32_t> dead = {0, 3, 6, 9};
    const auto with = reference::point_at(sae, batch, rules, 0, Mask(rows * width, 0), dead);
    const auto without = reference::point_at(sae, batch, rules, 0, {}, dead);
    EXPECT_EQ(with.auxiliary.mask, without.auxiliary.mask);
    EXPECT_EQ(with.forward.l0, 0);
}

// The three sequences, each kept.
TEST_P(ReferenceStep, AveragingKeepsItsThreeSequences) {
    for (const auto optimiser : {reference::Optimiser::adam_schedule_free, reference::Optimiser::signum}) {
        StepRules rules = rules_of(GetParam());
        rules.optimiser = optimiser;
        rules.unit_decoder = false;  // nothing but the recursion moves a parameter
        reference::Trained<double> trained(start(rules), optimiser);
        Sae<double> x = trained.sae, y = trained.sae, z = trained.sae, v = reference::zeros_like(x);
        double largest = 0, weights = 0;
        for (int t = 1; t <= 8; ++t) {
            rules.rates.lr = 0.01 * std::min({t / 3.0, 1.0, (9 - t) / 4.0});
            largest = std::max(largest, rules.rates.lr);
            weights += largest * largest;
            const auto result = reference::step(trained, rows_of(static_cast<std::uint64_t>(t)), rows, rules);
            for (int i = 0; i < Sae<double>::tensors; ++i)
                for (std::size_t e = 0; e < y.tensor(i).size(); ++e) {
                    const double g = result.gradient.tensor(i)[e];
                    double& second = v.tensor(i)[e];
                    second = 0.999 * second + 0.001 * g * g;
                    const double u = optimiser == reference::Optimiser::signum
                                         ? (g > 0   ? 1
                                            : g < 0 ? -1
                                                    : 0)
                                         : g / (std::sqrt(second / (1 - std::pow(0.999, t))) + 1e-8);
                    double& at = z.tensor(i)[e];
                    at -= rules.rates.lr * u;
                    x.tensor(i)[e] += largest * largest / weights * (at - x.tensor(i)[e]);
                    y.tensor(i)[e] = 0.1 * at + 0.9 * x.tensor(i)[e];
                }
            const Sae<double> averaged = reference::averaged(trained.sae, trained.first, rules);
            for (int i = 0; i < Sae<double>::tensors; ++i) {
                EXPECT_LT(test::relative_difference(trained.sae.tensor(i), y.tensor(i)), 1e-12);
                EXPECT_LT(test::relative_difference(trained.first.tensor(i), z.tensor(i)), 1e-12);
                EXPECT_LT(test::relative_difference(averaged.tensor(i), x.tensor(i)), 1e-12);
            }
        }
    }
}

TEST_P(ReferenceStep, RowsStayUnitAndThetaAboveItsFloorUnderEveryOptimiser) {
    for (const auto optimiser : {reference::Optimiser::adam, reference::Optimiser::adam_schedule_free,
                                 reference::Optimiser::signum}) {
        StepRules rules = rules_of(GetParam());
        rules.optimiser = optimiser;
        rules.mean_square = 4;
        rules.l0 = -1;  // drives theta down
        Sae<double> sae = start(rules);
        for (double& theta : sae.latent) theta *= rules.kind == Kind::jumprelu ? 0.05 : 1;
        reference::Trained<double> trained(sae, optimiser);
        rules.rates.lr = 0.05;
        bool at_floor = false;
        for (std::uint64_t t = 0; t < 5; ++t) reference::step(trained, rows_of(t), rows, rules);
        std::vector<const Sae<double>*> all = {&trained.sae};
        const Sae<double> averaged = reference::averaged(trained.sae, trained.first, rules);
        if (optimiser != reference::Optimiser::adam) all.insert(all.end(), {&trained.first, &averaged});
        for (const Sae<double>* s : all) {
            for (std::size_t j = 0; j < width; ++j)
                EXPECT_NEAR(reference::norm_of(s->decoder(j), n), 1, 1e-12);
            if (rules.kind != Kind::jumprelu) continue;
            for (const double theta : s->latent) {
                EXPECT_GE(theta, 2e-6);
                at_floor = at_floor || theta == 2e-6;
            }
        }
        EXPECT_EQ(at_floor, rules.kind == Kind::jumprelu);
    }
}

TEST(ReferenceResampling, SilentLatentsStartAgainFromRowsWithLargeErrors) {
    for (const Kind kind : {Kind::relu, Kind::gated})
        for (const bool unit : {true, false})
            for (const auto optimiser : {reference::Optimiser::adam, reference::Optimiser::signum}) {
                StepRules rules = rules_of(kind);
                rules.unit_decoder = unit;
                rules.optimiser = optimiser;
                rules.resample_every = 2;
                rules.atm = reference::AtmRules{.r = 0.0};
                Sae<double> sae = start(rules);
                for (const std::size_t j : {2, 5, 11}) sae.b_enc[j] = -50;
                reference::Trained<double> trained(sae, optimiser);
                reference::Draws draws{std::vector<double>(width, 0.5), uniforms(width, 9)};
                draws.resample[5] = 0;
                draws.resample[11] = 1 - 1e-9;
                EXPECT_TRUE(reference::step(trained, rows_of(1), rows, rules, draws).resampled.empty());
                EXPECT_EQ(trained.silent[2], rows);

                std::vector<double> x = rows_of(2);
                const std::vector<double> b_dec = trained.sae.b_dec;
                for (std::size_t c = 0; c < n; ++c) x[c] = b_dec[c];  // row 0: xc = 0
                const auto result = reference::step(trained, x, rows, rules, draws);
                std::vector<double> cumulative(rows);
                double total = 0;
                for (std::size_t b = 0; b < rows; ++b) {
                    if (b > 0) total += reference::norm_of(&result.forward.residual[0][b * n], n);
                    cumulative[b] = total;
                }
                ASSERT_EQ(result.resampled.size(), 3);
                double norms = 0;
                for (std::size_t j = 0; j < width; ++j)
                    if (j != 2 && j != 5 && j != 11) norms += reference::norm_of(trained.sae.encoder(j), n);
                EXPECT_EQ(result.resampled[1], (reference::Resampled{5, 1}));
                EXPECT_EQ(result.resampled[2], (reference::Resampled{11, rows - 1}));
                for (const auto& [j, b] : result.resampled) {
                    EXPECT_GT(cumulative[b], draws.resample[j] * total);
                    if (b > 0) {
                        EXPECT_LE(cumulative[b - 1], draws.resample[j] * total);
                    }
                    const double length = reference::norm_of(&result.forward.xc[b * n], n);
                    for (std::size_t c = 0; c < n; ++c) {
                        const double direction = (x[b * n + c] - b_dec[c]) / length;
                        EXPECT_NEAR(trained.sae.decoder(j)[c], direction * (unit ? 1 : 0.1), 1e-12);
                        EXPECT_NEAR(trained.sae.encoder(j)[c], 0.2 * norms / (width - 3) * direction, 1e-12);
                        for (const int i : {0, 1}) {
                            const std::size_t e = j * n + c;
                            EXPECT_EQ(trained.second.tensor(i)[e], 0);
                            EXPECT_EQ(trained.first.tensor(i)[e],
                                      optimiser == reference::Optimiser::adam ? 0 : trained.sae.tensor(i)[e]);
                        }
                    }
                    EXPECT_EQ(trained.sae.b_enc[j], 0);
                    EXPECT_EQ(trained.silent[j], 0);
                    EXPECT_GT(trained.atm.average[0][j], 0);
                }
                EXPECT_LT(trained.second.w_enc[0], 1);
            }
}

TEST(ReferenceResampling, RateRisesAgainByACosine) {
    EXPECT_DOUBLE_EQ(reference::rate_after_resampling(0, 1000), 0.1);
    EXPECT_DOUBLE_EQ(reference::rate_after_resampling(500, 1000), 0.55);
    EXPECT_DOUBLE_EQ(reference::rate_after_resampling(1000, 1000), 1);
}

TEST_P(ReferenceStep, IsTheSameInSinglePrecisionToRounding) {
    StepRules rules = rules_of(GetParam());
    rules.atm = reference::AtmRules{.by_row = true};
    rules.rates.epsilon = 1e-3;  // a gradient of zero may be a rounding error
    Sae<double> sae = start(rules);
    sae.skip.assign(n * n, 0.1);
    reference::Trained<double> wide(sae);
    reference::Trained<float> narrow{Sae<float>(sae)};
    for (std::uint64_t t = 0; t < 3; ++t) {
        const std::vector<double> x = rows_of(t), target = rows_of(100 + t);
        const reference::Draws draws{uniforms(rows, t), {}};
        const auto a = reference::step(wide, x, target, rows, rules, draws);
        const auto b =
            reference::step(narrow, {x.begin(), x.end()}, {target.begin(), target.end()}, rows, rules, draws);
        EXPECT_EQ(a.mask, b.mask);
        EXPECT_NEAR(a.losses.total(), b.losses.total(), 1e-5);
        for (int i = 0; i < Sae<double>::tensors; ++i)
            EXPECT_LT(test::relative_difference(narrow.sae.tensor(i), wide.sae.tensor(i)), 1e-4);
    }
}

// All formulas together: a few hundred steps on rows with a structure lower the loss.
TEST_P(ReferenceStep, Learns) {
    for (const auto optimiser : {reference::Optimiser::adam, reference::Optimiser::adam_schedule_free,
                                 reference::Optimiser::signum}) {
        StepRules rules = rules_of(GetParam());
        rules.k = 2;
        rules.optimiser = optimiser;
        rules.clip_norm = 1;
        if (optimiser == reference::Optimiser::signum) rules.rates = {.lr = 0.003, .beta1 = 0.95};
        Sae<double> sae = start(rules);
        reference::Trained<double> trained(sae, optimiser);
        const auto batch = [&](std::uint64_t t) {
            Random random(t, Purpose::synthetic);
            std::vector<double> x(rows * n);
            for (std::size_t b = 0; b < rows; ++b) {
                const std::uint32_t feature = random.below(8);
                Random direction(feature, Purpose::synthetic, 77);
                for (std::size_t c = 0; c < n; ++c)
                    x[b * n + c] = direction.normal() / std::sqrt(static_cast<double>(n));
            }
            return x;
        };
        double first = 0, last = 0;
        for (std::uint64_t t = 0; t < 200; ++t) {
            const auto result = reference::step(trained, batch(1000 + t), rows, rules);
            if (t < 10) first += result.losses.total();
            if (t >= 190) last += result.losses.total();
        }
        EXPECT_LT(last, 0.4 * first) << static_cast<int>(optimiser);
    }
}

}  // namespace
}  // namespace strata
