#include "config/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

namespace strata::config {
namespace {

// Where the first of `keys` that was written stands; a default is never to blame alone.
Origin blame(const Origins& origins, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const auto found = origins.find(key); found != origins.end()) return found->second;
    return {1, *keys.begin()};
}

void check_sae(const WrittenSae& written, std::int64_t batch_size, Errors& errors) {
    const SaeConfig& sae = written.config;
    const auto unless = [&](bool good, std::initializer_list<const char*> keys, const std::string& what) {
        if (!good) errors.add(blame(written.origins, keys), what);
    };
    const auto width = static_cast<double>(sae.width);
    unless(sae.k <= width, {"k", "width"},
           fmt::format("k {} exceeds width {}; expected k <= width", sae.k, sae.width));
    unless(sae.aux_k <= sae.width, {"aux_k", "width"},
           fmt::format("aux_k {} exceeds width {}; expected aux_k <= width", sae.aux_k, sae.width));
    unless(sae.kind != "topk" || sae.k == std::floor(sae.k), {"k", "kind"},
           fmt::format(
               "{} is not a whole number, but topk keeps k latents of each row; expected a whole number, or "
               "kind batch_topk",
               sae.k));
    unless(
        sae.kind == "batch_topk" || sae.row_cap == 0, {"row_cap", "kind"},
        fmt::format("{} has no meaning for kind {}; expected 0, or kind batch_topk", sae.row_cap, sae.kind));
    unless(sae.k * static_cast<double>(batch_size) >= 1, {"k"},
           fmt::format("{} selects no latent in a batch of {} rows; expected k x train.batch_size >= 1",
                       sae.k, batch_size));
}

}  // namespace

void check_run(const Config& config, const Origins& origins, const std::set<std::string>& failed,
               Errors& errors) {
    const auto unless = [&](bool good, std::initializer_list<const char*> keys, const std::string& what) {
        const bool known =
            std::none_of(keys.begin(), keys.end(), [&](const char* key) { return failed.contains(key); });
        if (known && !good) errors.add(blame(origins, keys), what);
    };
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

void check_saes(const std::vector<WrittenSae>& saes, std::int64_t batch_size, Errors& errors) {
    std::map<std::string, Origin> names;
    for (const WrittenSae& sae : saes) {
        check_sae(sae, batch_size, errors);
        const Origin here = blame(sae.origins, {"k", "width", "kind"});
        const auto [first, fresh] = names.emplace(name_of(sae.config), here);
        if (!fresh)
            errors.add(here, fmt::format("two SAEs are named {}, {}; expected each kind, width and k once",
                                         first->first,
                                         first->second.line > 0 && first->second.line != here.line
                                             ? fmt::format("the other of line {}", first->second.line)
                                             : std::string("both written here")));
    }
}

}  // namespace strata::config
