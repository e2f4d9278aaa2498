#include "formats/saelens.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "formats/safetensors.h"

namespace strata::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// [rows, columns] to [columns, rows], in blocks that stay in cache.
std::vector<float> transposed(const std::vector<float>& from, std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t block = 32;
    std::vector<float> to(from.size());
    for (std::int64_t r0 = 0; r0 < rows; r0 += block)
        for (std::int64_t c0 = 0; c0 < columns; c0 += block)
            for (std::int64_t r = r0; r < std::min(r0 + block, rows); ++r)
                for (std::int64_t c = c0; c < std::min(c0 + block, columns); ++c)
                    to[static_cast<std::size_t>(c * rows + r)] = from[static_cast<std::size_t>(r * columns + c)];
    return to;
}

// A key of cfg.json; RunError if it is missing or of another type.
template <typename T>
T key(const json& config, const fs::path& path, const char* name) {
    try {
        return config.at(name).get<T>();
    } catch (const json::exception&) {
        fail("{}: key '{}' is {}", path.string(), name,
             config.contains(name) ? "of the wrong type: " + config.at(name).dump() : std::string("missing"));
    }
}

void require_none(const json& config, const fs::path& path, const char* name) {
    const std::string value = config.contains(name) && !config.at(name).is_null() ? key<std::string>(config, path, name) : "none";
    if (value != "none")
        fail("{}: key '{}' is '{}'; only SAEs that take rows as they are ('none') can be read: fold it into the weights",
             path.string(), name, value);
}

}  // namespace

void write_saelens(const fs::path& folder, const SavedSae& sae) {
    if (fs::exists(folder)) fail("{}: exists already; nothing is overwritten", folder.string());
    json config = {{"architecture", sae.architecture},
                   {"d_in", sae.n},
                   {"d_sae", sae.width},
                   {"dtype", "float32"},
                   {"device", "cpu"},
                   {"apply_b_dec_to_input", sae.apply_b_dec_to_input},
                   {"normalize_activations", "none"},
                   {"reshape_activations", "none"},
                   {"metadata", sae.metadata}};
    // SAELens reads files without a version of at least 6 by the rules of its older formats.
    config["metadata"]["sae_lens_version"] = "6.0.0";
    if (sae.architecture == "topk") {
        config["k"] = sae.k;
        config["rescale_acts_by_decoder_norm"] = false;
    }
    const std::vector<float> w_enc = transposed(sae.w_enc, sae.width, sae.n);
    const auto bytes = [](const std::vector<float>& v) { return std::as_bytes(std::span(v)); };
    std::vector<Tensor> tensors = {{"W_enc", "F32", {sae.n, sae.width}, bytes(w_enc)},
                                   {"W_dec", "F32", {sae.width, sae.n}, bytes(sae.w_dec)},
                                   {"b_enc", "F32", {sae.width}, bytes(sae.b_enc)},
                                   {"b_dec", "F32", {sae.n}, bytes(sae.b_dec)}};
    if (sae.architecture == "jumprelu") tensors.push_back({"threshold", "F32", {sae.width}, bytes(sae.threshold)});

    const fs::path temporary = folder.string() + ".tmp";
    fs::remove_all(temporary);
    fs::create_directories(temporary);
    try {
        write_safetensors(temporary / "sae_weights.safetensors", tensors, {});
        write_file(temporary / "cfg.json", config.dump(2) + "\n");
        fs::rename(temporary, folder);
    } catch (...) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        throw;
    }
}

SavedSae read_saelens(const fs::path& folder) {
    const fs::path path = folder / "cfg.json";
    json config;
    try {
        config = json::parse(read_file(path));
    } catch (const json::exception& e) {
        fail("{}: not valid JSON: {}", path.string(), e.what());
    }
    SavedSae sae;
    sae.architecture = key<std::string>(config, path, "architecture");
    if (sae.architecture != "jumprelu" && sae.architecture != "topk" && sae.architecture != "standard")
        fail("{}: architecture '{}' cannot be read; jumprelu, topk and standard can", path.string(), sae.architecture);
    sae.n = key<std::int64_t>(config, path, "d_in");
    sae.width = key<std::int64_t>(config, path, "d_sae");
    if (sae.n <= 0 || sae.width <= 0) fail("{}: d_in is {} and d_sae is {}; both must be positive", path.string(), sae.n, sae.width);
    if (sae.architecture == "topk") {
        sae.k = key<std::int64_t>(config, path, "k");
        if (sae.k < 1 || sae.k > sae.width) fail("{}: k is {}, of {} latents", path.string(), sae.k, sae.width);
        if (config.contains("rescale_acts_by_decoder_norm") && key<bool>(config, path, "rescale_acts_by_decoder_norm"))
            fail("{}: key 'rescale_acts_by_decoder_norm' is true; fold the decoder norms into the weights", path.string());
    }
    require_none(config, path, "normalize_activations");
    require_none(config, path, "reshape_activations");
    if (config.contains("apply_b_dec_to_input")) sae.apply_b_dec_to_input = key<bool>(config, path, "apply_b_dec_to_input");
    sae.metadata = config.value("metadata", json::object());

    const SafetensorsFile file(folder / "sae_weights.safetensors");
    sae.w_enc = transposed(file.floats("W_enc", {sae.n, sae.width}), sae.n, sae.width);
    sae.w_dec = file.floats("W_dec", {sae.width, sae.n});
    sae.b_enc = file.floats("b_enc", {sae.width});
    sae.b_dec = file.floats("b_dec", {sae.n});
    if (sae.architecture == "jumprelu") sae.threshold = file.floats("threshold", {sae.width});
    return sae;
}

void fold_scale(SavedSae& sae, double scale) {
    for (auto* values : {&sae.b_enc, &sae.b_dec, &sae.threshold})
        for (float& value : *values) value = static_cast<float>(value / scale);
}

}  // namespace strata::formats
