#include "config/checks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>

#include "config/keys.h"
#include "config/values.h"

namespace strata::config {
namespace {

// Where the first of `keys` that was written stands; a default is never to blame alone.
Origin blame(const Origins& origins, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const auto found = origins.find(key); found != origins.end()) return found->second;
    return {1, *keys.begin()};
}

using Unless =
    std::function<void(bool good, std::initializer_list<const char*> keys, const std::string& what)>;

// A key that an SAE of this kind does not know may be written with its default only, which says that
// something is off; a k says more than that.
void check_kind(const WrittenSae& written, Errors& errors) {
    const SaeConfig& sae = written.config;
    for (const Key& key : keys()) {
        if (key.concerns(sae)) continue;
        const std::string value = key.get({}, sae);
        const std::string off = key.get({}, SaeConfig());
        const bool only_unwritten = key.name == "k";
        if (only_unwritten ? written.origins.contains(key.name) : value != off)
            errors.add(blame(written.origins, {key.name.c_str(), "kind"}),
                       fmt::format("{} has no meaning for kind {}; expected {}, or kind {}", value, sae.kind,
                                   only_unwritten ? "no k" : off, one_of(key.kinds)));
    }
}

void check_selection(const SaeConfig& sae, std::int64_t batch_size, const Unless& unless) {
    if (!find_key("sae", "k")->concerns(sae)) return;
    unless(sae.k <= static_cast<double>(sae.width), {"k", "width"},
           fmt::format("k {} exceeds width {}; expected k <= width", sae.k, sae.width));
    unless(sae.kind != "topk" || sae.k == std::floor(sae.k), {"k", "kind"},
           fmt::format(
               "{} is not a whole number, but topk keeps k latents of each row; expected a whole number, or "
               "kind batch_topk",
               sae.k));
    unless(sae.k * static_cast<double>(batch_size) >= 1, {"k"},
           fmt::format("{} selects no latent in a batch of {} rows; expected k x train.batch_size >= 1",
                       sae.k, batch_size));
}

void check_prefixes(const SaeConfig& sae, const Unless& unless) {
    const std::vector<double>& ends = sae.prefixes;
    const std::string text = written(ends);
    const bool whole =
        std::all_of(ends.begin(), ends.end(), [](double end) { return end == std::floor(end); });
    if (std::adjacent_find(ends.begin(), ends.end(), std::greater_equal()) != ends.end())
        unless(false, {"prefixes"},
               fmt::format("{} does not ascend; expected each number larger than the one before", text));
    else if (!ends.empty() && ends.back() > 1 && !whole)
        unless(false, {"prefixes"},
               fmt::format("{} are neither fractions nor widths; expected numbers <= 1 only, or whole "
                           "numbers only",
                           text));
    else if (!ends.empty() && ends.back() > static_cast<double>(sae.width))
        unless(false, {"prefixes", "width"},
               fmt::format("prefix {} exceeds width {}; expected prefixes <= width", ends.back(), sae.width));
    else
        unless(sae.kind != "matryoshka" || prefix_widths(sae).size() > 1, {"prefixes", "kind", "width"},
               fmt::format("{} with width {} makes a single prefix; expected two prefixes or more, or kind "
                           "batch_topk",
                           text, sae.width));
}

void check_atm(const AtmConfig& atm, const Unless& unless) {
    const bool some = std::any_of(atm.weights.begin(), atm.weights.end(), [](double w) { return w > 0; });
    unless(atm.weights.size() == 3 && some, {"atm.weights"},
           fmt::format("{} does not weigh the three statistics; expected three numbers >= 0, one of them > 0",
                       written(atm.weights)));
}

void check_sae(const WrittenSae& written, const Config& config, Errors& errors) {
    const SaeConfig& sae = written.config;
    const Unless unless = [&](bool good, std::initializer_list<const char*> keys, const std::string& what) {
        if (!good) errors.add(blame(written.origins, keys), what);
    };
    check_kind(written, errors);
    check_selection(sae, config.train.batch_size, unless);
    check_prefixes(sae, unless);
    if (sae.atm) check_atm(*sae.atm, unless);
    const std::int64_t aux_k = sae.aux_k.value_or(0);
    unless(aux_k <= sae.width, {"aux_k", "width"},
           fmt::format("aux_k {} exceeds width {}; expected aux_k <= width", aux_k, sae.width));
    if (sae.l0_target)
        unless(*sae.l0_target <= static_cast<double>(sae.width), {"l0_target", "width"},
               fmt::format("l0_target {} exceeds width {}; expected l0_target <= width", *sae.l0_target,
                           sae.width));
    unless(aux_k == 0 || find_key("sae", "k")->concerns(sae), {"aux_k", "kind"},
           fmt::format("{} has no meaning for kind {}; expected 0, or a kind that selects the k largest",
                       aux_k, sae.kind));
    unless(sae.resample_every == 0 || config.data.target.empty(), {"resample_every"},
           "new starts take directions of inputs, which mean nothing to a transcoder's outputs; expected 0, "
           "or no "
           "data.target");
    unless(sae.encoder_init == "fit" || !config.data.target.empty(), {"encoder_init"},
           "random directions of its own are for the encoder of a transcoder; expected data.target, or fit");
    unless(!sae.skip || !config.data.target.empty(), {"skip"},
           "true connects the input with another dataset; expected data.target to name it, or skip false");
}

}  // namespace

void check_run(const Config& config, const Origins& origins, const std::set<std::string>& failed,
               Errors& errors) {
    const auto unless = [&](bool good, std::initializer_list<const char*> keys, const std::string& what) {
        const bool known =
            std::none_of(keys.begin(), keys.end(), [&](const char* key) { return failed.contains(key); });
        if (known && !good) errors.add(blame(origins, keys), what);
    };
    unless(config.optimizer.kind == "adam" || config.optimizer.beta1 > 0,
           {"optimizer.beta1", "optimizer.kind"},
           fmt::format("0 leaves {} no average to save; expected a number > 0", config.optimizer.kind));
    const std::string& limit = config.run.time_limit;
    unless(limit.empty() || limit == "auto" || seconds_in(limit).has_value(), {"run.time_limit"},
           fmt::format("'{}' is not a time; expected {}", limit, find_key("run", "time_limit")->expected));
    // A folder of that very name, in the working folder, is not what was meant.
    for (const auto& [key, folder] :
         {std::pair{"run.output", config.run.output}, std::pair{"data.stage", config.data.stage}})
        unless(!folder.starts_with("~/") && folder.find('$') == std::string::npos, {key},
               fmt::format("'{}' is taken as it stands; expected a path without '~/' and '$'", folder));
    const DataConfig& data = config.data;
    unless(
        data.target.empty() || (std::ranges::count(data.target, '*') <= 1 &&
                                data.target.find_first_of("?[") == std::string::npos &&
                                data.target.find_first_not_of('/') != std::string::npos),
        {"data.target"},
        fmt::format("'{}' is not the name of one dataset for each input; expected a name in which one '*' at "
                    "most stands for the end of the input's name, after its last '/'",
                    data.target));
    unless(config.train.batch_size >= data.lanes, {"train.batch_size", "data.lanes"},
           fmt::format(
               "train.batch_size {} is below data.lanes {}; expected a row of each lane in every batch: a "
               "larger batch_size or fewer lanes",
               config.train.batch_size, data.lanes));
    unless(data.shuffle_rows >= 2 * data.lanes, {"data.shuffle_rows", "data.lanes"},
           fmt::format("data.shuffle_rows {} is below two rows for each of the {} data.lanes; expected >= {}",
                       data.shuffle_rows, data.lanes, 2 * data.lanes));
    unless(data.max_norm_ratio == 0 || data.max_norm_ratio > 1, {"data.max_norm_ratio"},
           fmt::format("{} would drop half of the rows or more; expected 0 (keep all) or a number > 1",
                       data.max_norm_ratio));
}

void check_saes(const std::vector<WrittenSae>& saes, const Config& config, Errors& errors) {
    std::vector<SaeConfig> configs;
    for (const WrittenSae& sae : saes) configs.push_back(sae.config);
    const std::vector<std::string> names = names_of(configs);
    std::map<std::string, std::size_t> first_of;
    for (std::size_t i = 0; i < saes.size(); ++i) {
        check_sae(saes[i], config, errors);
        const auto [first, fresh] = first_of.emplace(names[i], i);
        if (fresh) continue;
        const Origin& here = saes[i].origin;
        const Origin& there = saes[first->second].origin;
        std::vector<std::string_view> keys;
        for (const Key* key : differing_keys({&configs[first->second], &configs[i]}))
            keys.push_back(key->name);
        errors.add(here, fmt::format("two SAEs are named {}, {}; {}", names[i],
                                     there.line > 0 && there.line != here.line
                                         ? fmt::format("the other of line {}", there.line)
                                         : std::string("both written here"),
                                     keys.empty() ? "expected them to differ in a key"
                                                  : fmt::format("they differ in {}, which no name can tell; "
                                                                "expected other values there",
                                                                fmt::join(keys, ", "))));
    }
}

}  // namespace strata::config
