#include "config/keys.h"

#include <fmt/format.h>

#include <type_traits>

#include "config/kinds.h"
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

Accepts or_null(Accepts accepts) {
    accepts.words = {"null"};
    accepts.number = accepts.described.empty();
    return accepts;
}

template <typename Value>
std::string text_of(const Value& value, const Accepts&) {
    return written(value);
}
template <typename Value>
std::string text_of(const std::optional<Value>& value, const Accepts& accepts) {
    return value ? written(*value) : std::string(accepts.words.front());
}

AtmConfig& atm_of(SaeConfig& sae) {
    if (!sae.atm) sae.atm.emplace();
    return *sae.atm;
}
const AtmConfig& atm_of(const SaeConfig& sae) {
    static const AtmConfig defaults;
    return sae.atm ? *sae.atm : defaults;
}

// Adds the keys of one section, held in one struct.
template <typename Struct>
struct Section {
    std::vector<Key>& keys;
    std::string name;
    Struct Config::*in_config;  // unused for SaeConfig, of which a Config has several, and what is in it

    template <typename Value>
    Key& key(std::string key_name, Value Struct::*field, Accepts accepts) {
        constexpr bool is_whole = (std::is_integral_v<Value> && !std::is_same_v<Value, bool>) ||
                                  std::is_same_v<Value, std::optional<std::int64_t>>;
        const auto in = in_config;
        keys.push_back(
            {.section = name, .name = std::move(key_name), .expected = expected(accepts, is_whole)});
        keys.back().set = [field, in, accepts](const YAML::Node& node, Config& config, SaeConfig& sae) {
            return take(node, accepts, part(config, sae, in).*field);
        };
        keys.back().get = [field, in, accepts](const Config& config, const SaeConfig& sae) {
            return text_of(part(config, sae, in).*field, accepts);
        };
        keys.back().list = std::is_same_v<Value, std::vector<double>>;
        return keys.back();
    }

    // The same for kinds of SAE that alone know it.
    template <typename Value>
    void key_of(std::vector<std::string_view> kinds, std::string key_name, Value Struct::*field,
                Accepts accepts) {
        key(std::move(key_name), field, std::move(accepts)).kinds = std::move(kinds);
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
        else if constexpr (std::is_same_v<Struct, AtmConfig>)
            return atm_of(sae);
        else
            return config.*in;
    }
};

// null, or a map: the section of that name, whose keys are set after it.
std::string take_atm(const YAML::Node& node, const Accepts& accepts, SaeConfig& sae) {
    if (node.IsMap()) {
        atm_of(sae);
        return "";
    }
    std::string none;
    std::string wrong = take(node, accepts, none);
    if (wrong.empty()) sae.atm.reset();
    return wrong;
}

std::string written_atm(const Config& config, const SaeConfig& sae) {
    if (!sae.atm) return "null";
    std::string text;
    for (const Key& key : keys())
        if (key.section == "sae.atm")
            text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", key.name, key.get(config, sae));
    return "{" + text + "}";
}

std::vector<Key> make_keys() {
    std::vector<Key> all;

    Section<RunConfig> run{all, "run", &Config::run};
    Key& output = run.key("output", &RunConfig::output, {.described = "a folder, made if missing"});
    output.required = true;
    output.decides = false;
    run.key("seed", &RunConfig::seed, at_least(0));
    run.key("device", &RunConfig::device, words({"auto", "cpu", "cuda"})).decides = false;
    run.key("encoder", &RunConfig::encoder, words({"auto", "float32", "tf32", "screened"})).decides = false;
    run.key("screen_bound", &RunConfig::screen_bound, words({"dithered", "certain"})).decides = false;
    run.key("watchdog", &RunConfig::watchdog, at_least(0)).decides = false;
    run.only("reproducible", {"false"}, "sums depend on the number of ranks by rounding");
    run.key("time_limit", &RunConfig::time_limit,
            {.words = {"auto", "null"},
             .text = true,
             .described = "a time: seconds, MM:SS, HH:MM:SS or D-HH:MM:SS"})
        .decides = false;
    run.key("tensorboard", &RunConfig::tensorboard, words({"true", "false"})).decides = false;

    Section<DataConfig> data{all, "data", &Config::data};
    data.key("files", &DataConfig::files, {.described = "a list of files or globs"}).required = true;
    data.key("datasets", &DataConfig::datasets, {.described = "a list of dataset names or globs"}).required =
        true;
    data.key("target", &DataConfig::target, {.words = {"null"}, .text = true, .described = "a dataset name"});
    Accepts scale = above(0);
    scale.words = {"mean_square", "sqrt_dim", "none"};
    scale.number = true;
    data.key("scale", &DataConfig::scale, scale);
    data.key("max_norm_ratio", &DataConfig::max_norm_ratio, at_least(0));
    data.key("eval_rows", &DataConfig::eval_rows, whole(0));
    data.key("shuffle_rows", &DataConfig::shuffle_rows, whole(1));
    data.key("lanes", &DataConfig::lanes, whole(1, 4096));
    data.key("stage", &DataConfig::stage, or_null({.text = true, .described = "a folder of each host"}))
        .decides = false;
    // Without it a run ends where with it the first row would be left out, so until then both are the same.
    data.key("skip_corrupt", &DataConfig::skip_corrupt, words({"true", "false"})).decides = false;

    Section<TrainConfig> train{all, "train", &Config::train};
    train.key("batch_size", &TrainConfig::batch_size, whole(1));
    train.key("tokens", &TrainConfig::tokens, whole(1));
    train.key("log_every", &TrainConfig::log_every, whole(1)).decides = false;
    train.key("checkpoint_every", &TrainConfig::checkpoint_every, whole(1)).decides = false;
    train.key("keep_checkpoints", &TrainConfig::keep_checkpoints, whole(1)).decides = false;

    Section<OptimizerConfig> optimizer{all, "optimizer", &Config::optimizer};
    optimizer.key("kind", &OptimizerConfig::kind, words({"adam", "adam_schedule_free", "signum"}));
    optimizer.key("lr", &OptimizerConfig::lr, or_auto(above(0)));
    optimizer.key("beta1", &OptimizerConfig::beta1, below_one());
    optimizer.key("beta2", &OptimizerConfig::beta2, below_one());
    optimizer.key("epsilon", &OptimizerConfig::epsilon, above(0));
    optimizer.key("warmup", &OptimizerConfig::warmup, words({"linear", "cosine"}));
    optimizer.key("warmup_steps", &OptimizerConfig::warmup_steps, whole(0));
    optimizer.key("decay_fraction", &OptimizerConfig::decay_fraction, {.low = 0, .high = 1});
    optimizer.key("clip_norm", &OptimizerConfig::clip_norm, at_least(0));

    Section<SaeConfig> sae{all, "sae", nullptr};
    using Kinds = std::vector<std::string_view>;
    const Kinds all_kinds(known_kinds().begin(), known_kinds().end());
    const Kinds selecting = {"topk", "batch_topk", "matryoshka"};
    const Kinds batch_rule = {"batch_topk", "matryoshka"};
    const Kinds with_l1 = {"relu", "gated"};
    const Kinds jumprelu = {"jumprelu"};
    sae.key("kind", &SaeConfig::kind, words(all_kinds));
    sae.key("width", &SaeConfig::width, whole(1, std::numeric_limits<std::int32_t>::max()));
    sae.key_of(selecting, "k", &SaeConfig::k, above(0));
    sae.key_of(with_l1, "l1", &SaeConfig::l1, at_least(0));
    sae.key_of(jumprelu, "l0", &SaeConfig::l0, at_least(0));
    sae.key_of(jumprelu, "l0_target", &SaeConfig::l0_target, or_null(above(0)));
    sae.key_of(jumprelu, "frequency", &SaeConfig::frequency, at_least(0));
    sae.key_of(jumprelu, "frequency_limit", &SaeConfig::frequency_limit, {.low = 0, .high = 1});
    sae.key_of(jumprelu, "bandwidth", &SaeConfig::bandwidth, or_auto(above(0)));
    sae.key_of(jumprelu, "theta_init", &SaeConfig::theta_init, or_auto(above(0)));
    sae.key_of(jumprelu, "theta", &SaeConfig::theta, words({"direct", "log"}));
    sae.key_of({"relu", "jumprelu", "gated"}, "threshold_fall", &SaeConfig::threshold_fall, at_least(0));
    sae.key_of({"relu", "jumprelu", "gated"}, "penalty_warmup_steps", &SaeConfig::penalty_warmup_steps,
               whole(0));
    sae.key_of({"relu"}, "decoder", &SaeConfig::decoder, words({"unit", "free"}));
    sae.key_of(with_l1, "resample_every", &SaeConfig::resample_every, whole(0));
    sae.key_of(with_l1, "resample_warmup_steps", &SaeConfig::resample_warmup_steps, whole(0));
    sae.key("prefixes", &SaeConfig::prefixes,
            or_null({.low = 0, .above = true, .described = "a list of fractions of the width or of widths"}));
    sae.key("skip", &SaeConfig::skip, words({"true", "false"}));
    sae.key("init_from", &SaeConfig::init_from,
            or_null({.text = true, .described = "the folder of a saved SAE"}));
    sae.key("b_dec_init", &SaeConfig::b_dec_init, words({"mean", "zero"}));
    sae.key("encoder_init", &SaeConfig::encoder_init, words({"fit", "random"}));
    sae.key("encoder_norm", &SaeConfig::encoder_norm, or_auto(above(0)));
    sae.key("aux_k", &SaeConfig::aux_k, or_auto(whole(0)));
    sae.key("aux_coefficient", &SaeConfig::aux_coefficient, at_least(0));
    sae.key("dead_after_tokens", &SaeConfig::dead_after_tokens, or_auto(whole(1)));
    sae.key_of(batch_rule, "row_cap", &SaeConfig::row_cap, whole(0));
    sae.key_of(batch_rule, "threshold_scope", &SaeConfig::threshold_scope, words({"global", "local"}));
    const Accepts map = or_null({.described = "a map of keys of sae.atm"});
    all.push_back({.section = "sae", .name = "atm", .expected = expected(map, false)});
    all.back().set = [map](const YAML::Node& node, Config&, SaeConfig& set) {
        return take_atm(node, map, set);
    };
    all.back().get = written_atm;

    Section<AtmConfig> atm{all, "sae.atm", nullptr};
    atm.key("decay", &AtmConfig::decay, {.low = 0, .high = 1, .above = true, .below = true});
    atm.key("c", &AtmConfig::c, {});
    atm.key("r", &AtmConfig::r, above(0));
    atm.key("start_step", &AtmConfig::start_step, whole(0));
    atm.key("ramp_steps", &AtmConfig::ramp_steps, whole(0));
    atm.key("law", &AtmConfig::law, words({"latent", "token"}));
    atm.key("place", &AtmConfig::place, words({"before", "after"}));
    atm.key("combine", &AtmConfig::combine, words({"mean", "geometric"}));
    atm.key("weights", &AtmConfig::weights, {.low = 0, .described = "a list of three numbers >= 0"});

    Section<ParallelConfig> parallel{all, "parallel", &Config::parallel};
    parallel.key("groups", &ParallelConfig::groups, or_auto(whole(1))).decides = false;
    parallel.key("data", &ParallelConfig::data, or_auto(whole(1))).decides = false;
    parallel.only("latent", {"1"}, "latents are not divided among ranks").decides = false;
    parallel.only("shard_optimizer", {"false"}, "ranks of a host share its state already").decides = false;
    parallel.key("saes_per_job", &ParallelConfig::saes_per_job, or_auto(whole(1))).decides = false;
    parallel.key("micro_batch", &ParallelConfig::micro_batch, or_auto(whole(12))).decides = false;
    parallel.key("threads", &ParallelConfig::threads, or_auto(whole(1, 4096))).decides = false;
    return all;
}

}  // namespace

std::span<const Key> keys() {
    static const std::vector<Key> all = make_keys();
    return all;
}

}  // namespace strata::config
