#include "config/keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <type_traits>

#include "config/kinds.h"
#include "config/nearest.h"
#include "config/values.h"

namespace strata::config {
namespace {

Accepts whole(double low, double high = largest_whole) {
    return {.low = low, .high = high};
}
Accepts at_least(double low) {
    return {.low = low};
}
Accepts above(double low) {
    return {.low = low, .above = true};
}
Accepts below_one() {
    return {.low = 0, .high = 1, .below = true};
}
Accepts words(std::vector<std::string_view> list, std::string_view note = {}) {
    return {.words = std::move(list), .note = note};
}
Accepts or_auto(Accepts accepts) {
    accepts.words = {"auto"};
    accepts.number = true;
    return accepts;
}

// Adds the keys of one section, held in one struct.
template <typename Struct>
struct Section {
    std::vector<Key>& keys;
    std::string name;
    Struct Config::*in_config;  // unused for SaeConfig, of which a Config has several

    template <typename Value>
    Key& key(std::string key_name, Value Struct::*field, Accepts accepts) {
        constexpr bool is_whole =
            std::is_integral_v<Value> || std::is_same_v<Value, std::optional<std::int64_t>>;
        const auto in = in_config;
        keys.push_back(
            {.section = name, .name = std::move(key_name), .expected = expected(accepts, is_whole)});
        keys.back().set = [field, in, accepts](const YAML::Node& node, Config& config, SaeConfig& sae) {
            return take(node, accepts, part(config, sae, in).*field);
        };
        keys.back().get = [field, in](const Config& config, const SaeConfig& sae) {
            return written(part(config, sae, in).*field);
        };
        return keys.back();
    }

    // A key that this version knows in one value only; the first of the accepted spellings is the documented
    // one.
    Key& only(std::string key_name, std::vector<std::string_view> values, std::string_view why) {
        const Accepts accepts = words(std::move(values), why);
        keys.push_back({.section = name, .name = std::move(key_name), .expected = expected(accepts, false)});
        keys.back().set = [accepts](const YAML::Node& node, Config&, SaeConfig&) {
            return take_only(node, accepts);
        };
        keys.back().get = [text = std::string(accepts.words.front())](const Config&, const SaeConfig&) {
            return text;
        };
        return keys.back();
    }

    template <typename C, typename S>
    static auto& part(C& config, S& sae, Struct Config::*in) {
        if constexpr (std::is_same_v<Struct, SaeConfig>)
            return sae;
        else
            return config.*in;
    }
};

std::vector<Key> make_keys() {
    std::vector<Key> all;

    Section<RunConfig> run{all, "run", &Config::run};
    Key& output = run.key("output", &RunConfig::output, {.described = "a folder, made if missing"});
    output.required = true;
    output.decides = false;
    run.key("seed", &RunConfig::seed, at_least(0));
    run.key("device", &RunConfig::device, words({"auto", "cpu"}, "this program is built without CUDA"))
        .decides = false;
    run.only("reproducible", {"false"}, "sums depend on the number of ranks by rounding");

    Section<DataConfig> data{all, "data", &Config::data};
    data.key("files", &DataConfig::files, {.described = "a list of files or globs"}).required = true;
    data.key("datasets", &DataConfig::datasets, {.described = "a list of dataset names or globs"}).required =
        true;
    data.key("target", &DataConfig::target, {.words = {"null"}, .described = "a dataset name"});
    Accepts scale = above(0);
    scale.words = {"mean_square", "sqrt_dim", "none"};
    scale.number = true;
    data.key("scale", &DataConfig::scale, scale);
    data.key("max_norm_ratio", &DataConfig::max_norm_ratio, at_least(0));
    data.key("eval_rows", &DataConfig::eval_rows, whole(0));
    data.key("shuffle_rows", &DataConfig::shuffle_rows, whole(1));
    data.key("lanes", &DataConfig::lanes, whole(1, 4096));

    Section<TrainConfig> train{all, "train", &Config::train};
    train.key("batch_size", &TrainConfig::batch_size, whole(1));
    train.key("tokens", &TrainConfig::tokens, whole(1));
    train.key("log_every", &TrainConfig::log_every, whole(1)).decides = false;
    train.key("checkpoint_every", &TrainConfig::checkpoint_every, whole(1)).decides = false;
    train.key("keep_checkpoints", &TrainConfig::keep_checkpoints, whole(1)).decides = false;

    Section<OptimizerConfig> optimizer{all, "optimizer", &Config::optimizer};
    optimizer.key("kind", &OptimizerConfig::kind, words({"adam"}));
    optimizer.key("lr", &OptimizerConfig::lr, or_auto(above(0)));
    optimizer.key("beta1", &OptimizerConfig::beta1, below_one());
    optimizer.key("beta2", &OptimizerConfig::beta2, below_one());
    optimizer.key("epsilon", &OptimizerConfig::epsilon, above(0));
    optimizer.key("warmup_steps", &OptimizerConfig::warmup_steps, whole(0));
    optimizer.key("decay_fraction", &OptimizerConfig::decay_fraction, {.low = 0, .high = 1});
    optimizer.key("clip_norm", &OptimizerConfig::clip_norm, at_least(0));

    Section<SaeConfig> sae{all, "sae", nullptr};
    const auto kinds = known_kinds();
    sae.key("kind", &SaeConfig::kind, words({kinds.begin(), kinds.end()}, "the kinds of this version"));
    sae.key("width", &SaeConfig::width, whole(1, std::numeric_limits<std::int32_t>::max()));
    sae.key("k", &SaeConfig::k, above(0));
    sae.only("l1", {"0"}, "no kind of this version has an L1 penalty");
    sae.only("l0", {"0"}, "no kind of this version has an L0 penalty");
    sae.only("l0_target", {"null"}, "no kind of this version has an L0 penalty");
    sae.only("prefixes", {"null"}, "matryoshka prefixes are not trained");
    sae.only("skip", {"false"}, "transcoders are not trained");
    sae.only("init_from", {"null"}, "training starts from random weights");
    sae.key("b_dec_init", &SaeConfig::b_dec_init, words({"mean", "zero"}));
    sae.key("aux_k", &SaeConfig::aux_k, whole(0));
    sae.key("aux_coefficient", &SaeConfig::aux_coefficient, at_least(0));
    sae.key("dead_after_tokens", &SaeConfig::dead_after_tokens, whole(1));
    sae.key("row_cap", &SaeConfig::row_cap, whole(0));
    sae.only("threshold_scope", {"global"}, "the batch rule is that of the whole distributed batch");
    sae.only("atm", {"null"}, "adaptive temporal masking is not built in");

    Section<ParallelConfig> parallel{all, "parallel", &Config::parallel};
    parallel.only("groups", {"auto", "1"}, "all ranks work on the same SAEs").decides = false;
    parallel.key("data", &ParallelConfig::data, or_auto(whole(1))).decides = false;
    parallel.only("latent", {"1"}, "latents are not divided among ranks").decides = false;
    parallel.only("shard_optimizer", {"false"}, "every rank holds the optimiser's whole state").decides =
        false;
    parallel.key("threads", &ParallelConfig::threads, or_auto(whole(1, 4096))).decides = false;
    return all;
}

std::vector<std::string_view> names_in(std::string_view section) {
    std::vector<std::string_view> names;
    for (const Key& key : keys())
        if (key.section == section) names.push_back(key.name);
    return names;
}

}  // namespace

std::span<const Key> keys() {
    static const std::vector<Key> all = make_keys();
    return all;
}

const Key* find_key(std::string_view section, std::string_view name) {
    for (const Key& key : keys())
        if (key.section == section && key.name == name) return &key;
    return nullptr;
}

std::span<const std::string_view> sections() {
    static constexpr std::array<std::string_view, 6> names = {"run",       "data", "train",
                                                              "optimizer", "sae",  "parallel"};
    return names;
}

std::string hint(std::string_view section, std::string_view name) {
    for (const Key& key : keys())
        if (key.name == name || key.full() == name)
            return fmt::format("it belongs to section {}: {}", key.section, key.full());
    std::vector<std::string_view> here = names_in(section);
    if (section.empty()) {
        here.assign(sections().begin(), sections().end());
        here.push_back("suite");
    }
    if (const std::string_view near = nearest(name, here); !near.empty())
        return fmt::format("did you mean '{}'?", near);
    for (const std::string_view other : sections())
        if (const std::string_view near = nearest(name, names_in(other)); !near.empty())
            return fmt::format("did you mean {}.{}?", other, near);
    return fmt::format("expected one of {}", fmt::join(here, ", "));
}

}  // namespace strata::config
