#include "formats/saelens.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "formats/safetensors.h"

namespace strata::saelens {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* config_name = "cfg.json";
constexpr const char* weights_name = "sae_weights.safetensors";
// Loaders take folders without a version, or of one before 6, for an older layout.
constexpr const char* layout_version = "6.0.0";

// A tensor of the format and the field that holds it. `shape` is that on disk.
struct Part {
    const char* name;
    std::vector<float> SavedSae::*values;
    std::vector<std::int64_t> shape;
};

// Names on disk: jumprelu, jumprelu_transcoder, jumprelu_skip_transcoder; standard, transcoder,
// skip_transcoder.
std::string name_on_disk(const SavedSae& sae) {
    if (!sae.transcoder) return sae.architecture;
    const std::string rule = sae.architecture == "standard" ? "" : sae.architecture + "_";
    return rule + (sae.w_skip.empty() ? "transcoder" : "skip_transcoder");
}

// The opposite; leaves a w_skip of the size it will have.
void take_name(std::string name, SavedSae& sae) {
    const auto drop = [&](std::string_view end) {
        if (!name.ends_with(end)) return false;
        name.resize(name.size() - end.size());
        if (name.ends_with('_')) name.pop_back();
        return true;
    };
    sae.transcoder = drop("transcoder");
    if (sae.transcoder && drop("skip")) sae.w_skip.resize(1);
    sae.architecture = sae.transcoder && name.empty() ? "standard" : name;
}

bool known(std::string_view architecture) {
    return architecture == "jumprelu" || architecture == "topk" || architecture == "standard";
}

std::vector<Part> parts_of(const SavedSae& sae) {
    std::vector<Part> parts = {{"W_enc", &SavedSae::w_enc, {sae.n, sae.width}},
                               {"b_enc", &SavedSae::b_enc, {sae.width}},
                               {"W_dec", &SavedSae::w_dec, {sae.width, sae.n}},
                               {"b_dec", &SavedSae::b_dec, {sae.n}}};
    if (sae.architecture == "jumprelu") parts.push_back({"threshold", &SavedSae::threshold, {sae.width}});
    if (!sae.w_skip.empty()) parts.push_back({"W_skip", &SavedSae::w_skip, {sae.n, sae.n}});
    return parts;
}

// [rows, columns] to [columns, rows], by blocks that stay in the first-level cache.
std::vector<float> transposed(const std::vector<float>& in, std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t block = 32;
    std::vector<float> out(in.size());
    for (std::int64_t r = 0; r < rows; r += block)
        for (std::int64_t c = 0; c < columns; c += block)
            for (std::int64_t i = r; i < std::min(r + block, rows); ++i)
                for (std::int64_t j = c; j < std::min(c + block, columns); ++j)
                    out[static_cast<std::size_t>(j * rows + i)] =
                        in[static_cast<std::size_t>(i * columns + j)];
    return out;
}

void check_sizes(const std::string& folder, const SavedSae& sae) {
    if (!known(sae.architecture)) fail("{}: cannot write architecture '{}'", folder, sae.architecture);
    if (sae.architecture == "topk" && (sae.k < 1 || sae.k > sae.width))
        fail("{}: k {} is not in 1 to {}", folder, sae.k, sae.width);
    for (const Part& part : parts_of(sae)) {
        std::int64_t size = 1;
        for (const std::int64_t extent : part.shape) size *= extent;
        const auto found = static_cast<std::int64_t>((sae.*part.values).size());
        if (found != size)
            fail("{}: {} has {} values, expected [{}]", folder, part.name, found,
                 fmt::join(part.shape, ", "));
    }
}

// cfg.json with what was found in it, for messages.
struct Settings {
    std::string file;
    Json json;

    const Json* find(const char* key) const {
        const auto found = json.find(key);
        return found == json.end() || found->is_null() ? nullptr : &*found;
    }

    [[noreturn]] void wrong(const char* key, const char* expected) const {
        const Json* value = find(key);
        fail("{}: {}: {}; expected {}", file, key, value ? value->dump(-1, ' ', true) : "is missing",
             expected);
    }

    std::int64_t positive(const char* key) const {
        const Json* value = find(key);
        // Bounded so that the product of two sizes and four bytes cannot overflow.
        if (!value || !value->is_number_unsigned() || *value == 0 || *value > std::uint64_t{1} << 30)
            wrong(key, "a whole number from 1 to 2^30");
        return value->get<std::int64_t>();
    }

    // A key that may be missing and has one value otherwise.
    void only(const char* key, const Json& value, const char* expected) const {
        const Json* found = find(key);
        if (found && *found != value) wrong(key, expected);
    }
};

Settings read_settings(const std::filesystem::path& path) {
    Settings settings{path.string(), {}};
    try {
        settings.json = Json::parse(read_file(path));
    } catch (const Json::exception& error) {
        fail("{}: not JSON: {}", path.string(), error.what());
    }
    if (!settings.json.is_object()) fail("{}: is not a map of settings", path.string());
    return settings;
}

SavedSae parse(const Settings& settings) {
    SavedSae sae;
    const Json* architecture = settings.find("architecture");
    if (architecture && architecture->is_string()) take_name(architecture->get<std::string>(), sae);
    if (!known(sae.architecture))
        settings.wrong("architecture", "\"jumprelu\", \"topk\" or \"standard\", or a transcoder of these");
    sae.n = settings.positive("d_in");
    sae.width = settings.positive("d_sae");
    settings.only("normalize_activations", "none", "\"none\": scales folded into the weights");
    settings.only("reshape_activations", "none", "\"none\"");
    settings.only("rescale_acts_by_decoder_norm", false, "false: decoder norms folded into the weights");
    // Layouts before version 6 wrote a topk SAE as a standard one with another activation.
    settings.only("activation_fn_str", "relu", "\"relu\", or a folder of SAELens 6");
    settings.only("activation_fn", "relu", "\"relu\", or a folder of SAELens 6");
    if (sae.architecture == "topk") {
        sae.k = settings.positive("k");
        if (sae.k > sae.width) settings.wrong("k", "at most d_sae");
    }
    if (const Json* apply = settings.find("apply_b_dec_to_input")) {
        if (!apply->is_boolean()) settings.wrong("apply_b_dec_to_input", "true or false");
        sae.apply_b_dec_to_input = apply->get<bool>();
    }
    if (sae.transcoder) {
        sae.apply_b_dec_to_input = false;
        settings.only("apply_b_dec_to_input", false, "false: a transcoder's input is taken as it is");
        settings.only("d_out", sae.n, "d_in: outputs of another width are not supported");
    }
    if (const Json* metadata = settings.find("metadata")) {
        if (!metadata->is_object()) settings.wrong("metadata", "a map");
        sae.metadata = *metadata;
    }
    return sae;
}

}  // namespace

void write(const std::filesystem::path& folder, const SavedSae& sae) {
    const std::filesystem::path target = folder.has_filename() ? folder : folder.parent_path();
    if (std::filesystem::exists(std::filesystem::symlink_status(target)))
        refuse("{}: exists; nothing is overwritten: choose another folder or remove it", target.string());
    check_sizes(target.string(), sae);

    Json config = {{"architecture", name_on_disk(sae)},
                   {"d_in", sae.n},
                   {"d_sae", sae.width},
                   {"dtype", "float32"},
                   {"device", "cpu"},
                   {"apply_b_dec_to_input", sae.apply_b_dec_to_input},
                   {"normalize_activations", "none"},
                   {"reshape_activations", "none"}};
    if (sae.architecture == "topk") {
        config["k"] = sae.k;
        config["rescale_acts_by_decoder_norm"] = false;
    }
    if (sae.transcoder) config["d_out"] = sae.n;
    config["metadata"] = sae.metadata;
    if (!sae.metadata.contains("sae_lens_version")) config["metadata"]["sae_lens_version"] = layout_version;

    const std::vector<float> w_enc = transposed(sae.w_enc, sae.width, sae.n);
    const std::vector<float> w_skip = sae.w_skip.empty() ? sae.w_skip : transposed(sae.w_skip, sae.n, sae.n);
    std::vector<safetensors::Tensor> tensors;
    for (const Part& part : parts_of(sae)) {
        const std::vector<float>& values = part.values == &SavedSae::w_enc    ? w_enc
                                           : part.values == &SavedSae::w_skip ? w_skip
                                                                              : sae.*part.values;
        tensors.push_back({part.name, "F32", part.shape, std::as_bytes(std::span(values))});
    }

    const std::filesystem::path temporary = target.string() + ".tmp";
    try {
        std::filesystem::remove_all(temporary);  // of a run that was killed here
        std::filesystem::create_directories(temporary);
        safetensors::write(temporary / weights_name, tensors);
        // Names that came from a file may be bytes that are no UTF-8.
        write_file(temporary / config_name,
                   config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
        std::filesystem::rename(temporary, target);
    } catch (const std::filesystem::filesystem_error& error) {
        fail("{}: cannot make the folder: {}", target.string(), error.code().message());
    }
    sync_folder(target.parent_path());
}

SavedSae describe(const std::filesystem::path& folder) {
    if (!std::filesystem::is_directory(folder))
        fail("{}: no such folder; expected one with {}", folder.string(), config_name);
    for (const char* name : {config_name, weights_name})
        if (!std::filesystem::is_regular_file(folder / name))
            fail("{}: has no {}; expected the folder of one SAE, as RUN/saes/NAME", folder.string(), name);
    return parse(read_settings(folder / config_name));
}

SavedSae read(const std::filesystem::path& folder) {
    SavedSae sae = describe(folder);
    const safetensors::File file = safetensors::read(folder / weights_name);
    const std::vector<Part> parts = parts_of(sae);
    for (const safetensors::Tensor& tensor : file.tensors)
        if (std::none_of(parts.begin(), parts.end(),
                         [&](const Part& part) { return part.name == tensor.name; }))
            fail("{}: tensor '{}' is none of architecture {}", file.path.string(), tensor.name,
                 sae.architecture);
    for (const Part& part : parts) sae.*part.values = file.floats(part.name, part.shape);
    sae.w_enc = transposed(sae.w_enc, sae.n, sae.width);
    if (!sae.w_skip.empty()) sae.w_skip = transposed(sae.w_skip, sae.n, sae.n);
    return sae;
}

void subtract_from_input(SavedSae& sae) {
    for (std::size_t j = 0; j < sae.b_enc.size(); ++j)
        sae.b_enc[j] = static_cast<float>(
            std::inner_product(sae.b_dec.begin(), sae.b_dec.end(),
                               sae.w_enc.begin() + std::ssize(sae.b_dec) * static_cast<std::ptrdiff_t>(j),
                               static_cast<double>(sae.b_enc[j])));
    sae.apply_b_dec_to_input = true;
}

void fold_decoder_norms(SavedSae& sae) {
    const auto n = static_cast<std::size_t>(sae.n);
    for (std::size_t j = 0; j < sae.b_enc.size(); ++j) {
        double square = 0;
        for (std::size_t c = 0; c < n; ++c) square += std::pow(static_cast<double>(sae.w_dec[j * n + c]), 2);
        if (square == 0) continue;
        const double norm = std::sqrt(square);
        for (std::size_t c = 0; c < n; ++c) {
            sae.w_dec[j * n + c] = static_cast<float>(sae.w_dec[j * n + c] / norm);
            sae.w_enc[j * n + c] = static_cast<float>(sae.w_enc[j * n + c] * norm);
        }
        sae.b_enc[j] = static_cast<float>(sae.b_enc[j] * norm);
        if (!sae.threshold.empty()) sae.threshold[j] = static_cast<float>(sae.threshold[j] * norm);
    }
}

void fold_scale(SavedSae& sae, double scale) {
    if (!(scale > 0) || !std::isfinite(scale))
        fail("cannot fold a scale of {}; expected a number > 0", scale);
    for (std::vector<float>* values : {&sae.b_enc, &sae.b_dec, &sae.threshold})
        for (float& value : *values) value = static_cast<float>(value / scale);
}

}  // namespace strata::saelens
