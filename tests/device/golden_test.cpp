// The reference against PyTorch's autograd: losses, gradients, steps of training, optimisers, from the files
// that tools/golden.py wrote.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/problem.h"
#include "support/reference.h"

namespace strata {
namespace {

using nlohmann::json;
using reference::Batch;
using reference::Mask;
using reference::Sae;
using reference::StepRules;

const std::filesystem::path folder = std::filesystem::path(STRATA_SOURCE) / "tests/golden";
constexpr double tolerance = 1e-9;  // the files have 13 digits

json read(const std::string& name) {
    std::ifstream file(folder / (name + ".json"));
    return json::parse(file);
}

StepRules rules_of(const json& from) {
    StepRules rules;
    rules.kind = reference::kind_named(from.at("kind").get<std::string>());
    rules.k = from.value("k", 1.0);
    rules.row_cap = from.value("row_cap", std::size_t{0});
    rules.rank_rows = from.value("rank_rows", std::vector<std::size_t>{});
    rules.prefixes = from.value("prefixes", std::vector<std::size_t>{});
    rules.unit_decoder = !from.value("free_decoder", false);
    rules.l1 = from.value("l1", 0.0);
    rules.l0 = from.value("l0", 0.0);
    if (from.contains("l0_target")) rules.l0_target = from["l0_target"].get<double>();
    rules.frequency = from.value("frequency", 0.0);
    rules.frequency_limit = from.value("frequency_limit", 0.1);
    rules.bandwidth = from.value("bandwidth", 0.001);
    rules.log_theta = from.value("log_theta", false);
    rules.mean_square = from.at("mean_square").get<double>();
    rules.aux_k = from.value("aux_k", std::size_t{0});
    rules.aux_coefficient = from.value("aux_coefficient", 0.0);
    rules.atm = reference::AtmRules{.before_selection = !from.value("masks_after", false)};
    return rules;
}

Sae<double> sae_of(const json& golden, const json& tensors) {
    Sae<double> sae(golden.at("n").get<std::size_t>(), golden.at("width").get<std::size_t>());
    for (int i = 0; i < Sae<double>::tensors; ++i)
        if (tensors.contains(Sae<double>::names[i]))
            sae.tensor(i) = tensors[Sae<double>::names[i]].get<std::vector<double>>();
    return sae;
}

double difference(const Sae<double>& found, const Sae<double>& expected) {
    double worst = 0;
    for (int i = 0; i < Sae<double>::tensors; ++i) {
        EXPECT_EQ(found.tensor(i).size(), expected.tensor(i).size()) << Sae<double>::names[i];
        const double error = test::relative_difference(found.tensor(i), expected.tensor(i));
        EXPECT_LT(error, tolerance) << Sae<double>::names[i];
        worst = std::max(worst, error);
    }
    return worst;
}

// Of the files that have a part of this name.
std::vector<std::string> files_with(const char* part) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        const std::string name = entry.path().stem().string();
        if (read(name).contains(part)) names.push_back(name);
    }
    std::ranges::sort(names);
    return names;
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, LossesAndGradientsAreThoseOfAutograd) {
    const json golden = read(GetParam());
    const StepRules rules = rules_of(golden["rules"]);
    const Sae<double> sae = sae_of(golden, golden["parameters"]);
    const Batch<double> batch{golden["rows"].get<std::size_t>(), golden["x"].get<std::vector<double>>(),
                              golden.value("target", std::vector<double>{})};
    const auto kept = golden.value("kept", std::vector<char>{});
    const auto dead = golden.value("dead", std::vector<std::uint32_t>{});
    const reference::Point<double> point = reference::point_at(sae, batch, rules, 0, kept, dead);
    EXPECT_EQ(point.forward.selected, golden["active"].get<Mask>());

    const reference::Losses<double> losses = reference::losses_of(sae, batch, rules, point);
    const std::pair<const char*, double> terms[] = {{"reconstruction", losses.reconstruction},
                                                    {"prefixes", losses.prefixes},
                                                    {"penalty", losses.penalty},
                                                    {"frequency", losses.frequency},
                                                    {"gate", losses.gate},
                                                    {"auxiliary", losses.auxiliary}};
    for (const auto& [name, found] : terms) {
        const double expected = golden["losses"].value(name, 0.0);
        EXPECT_NEAR(found, expected, tolerance * std::abs(expected)) << name;
    }
    const double worst =
        difference(reference::gradient_of(batch, rules, point), sae_of(golden, golden["gradient"]));
    RecordProperty("gradient", fmt::format("{:.2e}", worst));
}

INSTANTIATE_TEST_SUITE_P(Files, Golden, testing::ValuesIn(files_with("gradient")),
                         [](const auto& info) { return info.param; });

class GoldenTraining : public testing::TestWithParam<std::string> {};

TEST_P(GoldenTraining, StepsAreThoseOfAutogradAndAdam) {
    const json golden = read(GetParam());
    const json& training = golden["training"];
    StepRules rules = rules_of(golden["rules"]);
    rules.atm.reset();
    rules.clip_norm = training["clip_norm"].get<double>();
    rules.rates.lr = training["lr"].get<double>();
    rules.dead_after = 1000000;
    reference::Trained<double> trained(sae_of(golden, golden["parameters"]));
    bool clipped = false;
    for (const double norm : training["gradient_norms"].get<std::vector<double>>()) {
        const reference::StepResult<double> result = reference::step(
            trained, golden["x"].get<std::vector<double>>(), golden.value("target", std::vector<double>{}),
            golden["rows"].get<std::size_t>(), rules);
        EXPECT_NEAR(result.gradient_norm, norm, tolerance * norm);
        clipped = clipped || norm > rules.clip_norm;
    }
    EXPECT_TRUE(clipped);
    difference(trained.sae, sae_of(golden, training["parameters"]));
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenTraining, testing::ValuesIn(files_with("training")),
                         [](const auto& info) { return info.param; });

class GoldenOptimiser : public testing::TestWithParam<std::string> {};

TEST_P(GoldenOptimiser, StepsAreThoseOfItsAuthors) {
    const json golden = read(GetParam());
    const bool averages = GetParam() != "optimiser_adam";
    StepRules rules;
    rules.rates = {.lr = 0,
                   .beta1 = golden["beta1"].get<double>(),
                   .beta2 = golden["beta2"].get<double>(),
                   .epsilon = golden["epsilon"].get<double>()};
    const auto start = golden["start"].get<std::vector<double>>();
    Sae<double> sae(start.size(), 0);  // all of it b_dec
    sae.b_dec = start;
    Sae<double> first = averages ? sae : reference::zeros_like(sae), second = reference::zeros_like(sae);
    Sae<double> gradient = sae;
    reference::Averaging averaging;
    int t = 0;
    for (const json& step : golden["steps"]) {
        SCOPED_TRACE(++t);
        gradient.b_dec = step["gradient"].get<std::vector<double>>();
        rules.rates.lr = step["lr"].get<double>();
        if (averages) {
            const double c = averaging.next(rules.rates.lr);
            reference::schedule_free(sae, first, second, gradient, rules.rates, 1.0, t, c,
                                     GetParam() == "optimiser_signum");
            EXPECT_LT(test::relative_difference(reference::averaged(sae, first, rules).b_dec,
                                                step["averaged"].get<std::vector<double>>()),
                      tolerance);
        } else {
            reference::adam(sae, first, second, gradient, rules.rates, 1.0, t);
        }
        EXPECT_LT(test::relative_difference(sae.b_dec, step["parameters"].get<std::vector<double>>()),
                  tolerance);
    }
    EXPECT_GT(t, 5);
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenOptimiser, testing::ValuesIn(files_with("steps")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace strata
