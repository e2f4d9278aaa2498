#include "formats/saelens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "formats/safetensors.h"
#include "support/folder.h"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;
using saelens::SavedSae;
using test::Folder;
using testing::HasSubstr;

SavedSae make(const std::string& architecture, std::int64_t n, std::int64_t width) {
    Random random(7, Purpose::initial_weights);
    const auto normals = [&](std::int64_t count) {
        std::vector<float> values(static_cast<std::size_t>(count));
        for (float& value : values) value = random.normal();
        return values;
    };
    SavedSae sae;
    sae.architecture = architecture;
    sae.n = n;
    sae.width = width;
    sae.w_enc = normals(n * width);
    sae.w_dec = normals(n * width);
    sae.b_enc = normals(width);
    sae.b_dec = normals(n);
    if (architecture == "topk") sae.k = 3;
    if (architecture == "jumprelu") {
        sae.threshold = normals(width);
        for (float& value : sae.threshold) value = std::abs(value);
    }
    return sae;
}

void expect_equal(const SavedSae& a, const SavedSae& b) {
    EXPECT_EQ(a.architecture, b.architecture);
    EXPECT_EQ(a.n, b.n);
    EXPECT_EQ(a.width, b.width);
    EXPECT_EQ(a.k, b.k);
    EXPECT_EQ(a.w_enc, b.w_enc);
    EXPECT_EQ(a.w_dec, b.w_dec);
    EXPECT_EQ(a.b_enc, b.b_enc);
    EXPECT_EQ(a.b_dec, b.b_dec);
    EXPECT_EQ(a.threshold, b.threshold);
    EXPECT_EQ(a.apply_b_dec_to_input, b.apply_b_dec_to_input);
}

TEST(Saelens, RoundTrip) {
    for (const std::string architecture : {"jumprelu", "topk", "standard"})
        for (const auto& [n, width] :
             {std::pair{5, 37}, std::pair{70, 33}, std::pair{1, 3}, std::pair{64, 64}}) {
            const Folder folder;
            SavedSae sae = make(architecture, n, width);
            sae.apply_b_dec_to_input = architecture != "standard";
            sae.metadata = {{"hook_name", "blocks.12.hook_resid_post"}, {"l0", 31.5}};
            saelens::write(folder / "deep/er/sae", sae);
            const SavedSae back = saelens::read(folder / "deep/er/sae");
            expect_equal(sae, back);
            EXPECT_EQ(back.metadata.at("hook_name"), "blocks.12.hook_resid_post");
            EXPECT_EQ(back.metadata.at("sae_lens_version"), "6.0.0");
            EXPECT_FALSE(std::filesystem::exists(folder / "deep/er/sae.tmp"));
        }
}

// What other programs find on disk, through no code of this format but the container's.
TEST(Saelens, OnDisk) {
    const Folder folder;
    const SavedSae sae = make("jumprelu", 2, 3);
    saelens::write(folder / "sae/", sae);
    const Json config = Json::parse(read_file(folder / "sae/cfg.json"));
    EXPECT_EQ(config.dump(),
              R"({"architecture":"jumprelu","d_in":2,"d_sae":3,"dtype":"float32","device":"cpu",)"
              R"("apply_b_dec_to_input":true,"normalize_activations":"none",)"
              R"("reshape_activations":"none","metadata":{"sae_lens_version":"6.0.0"}})");
    const auto file = safetensors::read(folder / "sae/sae_weights.safetensors");
    std::set<std::string> names;
    for (const auto& tensor : file.tensors) names.insert(tensor.name);
    EXPECT_EQ(names, (std::set<std::string>{"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}));
    const auto& w = sae.w_enc;
    EXPECT_EQ(file.floats("W_enc", std::vector<std::int64_t>{2, 3}),
              (std::vector<float>{w[0], w[2], w[4], w[1], w[3], w[5]}));
    EXPECT_EQ(file.floats("W_dec", std::vector<std::int64_t>{3, 2}), sae.w_dec);
    EXPECT_EQ(file.floats("threshold", std::vector<std::int64_t>{3}), sae.threshold);

    saelens::write(folder / "topk", make("topk", 2, 3));
    const Json topk = Json::parse(read_file(folder / "topk/cfg.json"));
    EXPECT_EQ(topk.at("k"), 3);
    EXPECT_EQ(topk.at("rescale_acts_by_decoder_norm"), false);
}

TEST(Saelens, WholeFolderOrNone) {
    const Folder folder;
    const auto path = folder / "sae";
    SavedSae sae = make("topk", 4, 8);
    sae.b_dec.pop_back();
    EXPECT_THROW(saelens::write(path, sae), RunError);
    EXPECT_FALSE(std::filesystem::exists(path));

    // What a killed run left is replaced.
    std::filesystem::create_directories(folder / "sae.tmp");
    std::ofstream(folder / "sae.tmp/old") << "old";
    sae = make("topk", 4, 8);
    saelens::write(path, sae);
    EXPECT_FALSE(std::filesystem::exists(path / "old"));
    expect_equal(saelens::read(path), sae);

    EXPECT_THROW(saelens::write(path, make("jumprelu", 4, 8)), UsageError);
    EXPECT_THROW(saelens::write(path / "", make("jumprelu", 4, 8)), UsageError);
    expect_equal(saelens::read(path), sae);
    EXPECT_THROW(saelens::write(path / "cfg.json/inner", sae), RunError);

    sae.k = 9;
    EXPECT_THROW(saelens::write(folder / "k", sae), RunError);
    sae.architecture = "gated";
    EXPECT_THROW(saelens::write(folder / "gated", sae), RunError);
}

// What reading complains of after cfg.json was changed.
std::string complaint(const std::string& architecture, const std::function<void(Json&)>& change) {
    const Folder folder;
    saelens::write(folder / "sae", make(architecture, 4, 8));
    Json config = Json::parse(read_file(folder / "sae/cfg.json"));
    change(config);
    write_file(folder / "sae/cfg.json", config.dump());
    try {
        saelens::read(folder / "sae");
    } catch (const RunError& error) {
        return error.what();
    }
    return "";
}

TEST(Saelens, RefusesWhatItCannotApply) {
    const auto set = [](const char* key, const Json& value) {
        return [key, value](Json& config) { config[key] = value; };
    };
    const auto drop = [](const char* key) { return [key](Json& config) { config.erase(key); }; };
    const auto of = [](const std::function<void(Json&)>& change) { return complaint("topk", change); };
    EXPECT_THAT(of(set("architecture", "gated")),
                HasSubstr("cfg.json: architecture: \"gated\"; expected \"jumprelu\""));
    EXPECT_THAT(of(set("architecture", 5)), HasSubstr("architecture: 5; expected"));
    EXPECT_THAT(of(drop("architecture")), HasSubstr("architecture: is missing; expected"));
    EXPECT_THAT(of(set("normalize_activations", "layer_norm")),
                HasSubstr("normalize_activations: \"layer_norm\"; expected \"none\""));
    EXPECT_THAT(of(set("reshape_activations", "hook_z")),
                HasSubstr("reshape_activations: \"hook_z\"; expected"));
    EXPECT_THAT(of(set("rescale_acts_by_decoder_norm", true)),
                HasSubstr("rescale_acts_by_decoder_norm: true"));
    EXPECT_THAT(of(set("activation_fn_str", "topk")), HasSubstr("activation_fn_str: \"topk\""));
    EXPECT_THAT(of(drop("k")), HasSubstr("cfg.json: k: is missing; expected a whole number"));
    EXPECT_THAT(of(set("k", 0)), HasSubstr("k: 0; expected a whole number"));
    EXPECT_THAT(of(set("k", 2.5)), HasSubstr("k: 2.5; expected a whole number"));
    EXPECT_THAT(of(set("k", 9)), HasSubstr("k: 9; expected at most d_sae"));
    EXPECT_THAT(of(drop("d_in")), HasSubstr("d_in: is missing"));
    EXPECT_THAT(of(set("d_sae", -8)), HasSubstr("d_sae: -8; expected"));
    EXPECT_THAT(of(set("d_sae", 1e300)), HasSubstr("d_sae: 1e+300; expected"));
    EXPECT_THAT(of(set("d_in", 5)), HasSubstr("tensor 'W_enc' has shape [4, 8], expected [5, 8]"));
    EXPECT_THAT(of(set("apply_b_dec_to_input", "yes")),
                HasSubstr("apply_b_dec_to_input: \"yes\"; expected true"));
    EXPECT_THAT(of(set("metadata", 5)), HasSubstr("metadata: 5; expected a map"));
    EXPECT_THAT(of([](Json& config) { config = Json::array(); }), HasSubstr("not a map of settings"));
    EXPECT_THAT(of(set("architecture", "jumprelu")), HasSubstr("has no tensor 'threshold'"));
    EXPECT_THAT(complaint("jumprelu", set("architecture", "standard")),
                HasSubstr("tensor 'threshold' is none of architecture standard"));
    // The defaults of the format, and keys of other programs.
    for (const char* key : {"normalize_activations", "reshape_activations", "apply_b_dec_to_input",
                            "metadata", "dtype", "rescale_acts_by_decoder_norm"})
        EXPECT_EQ(of(drop(key)), "") << key;
    EXPECT_EQ(of(set("prepend_bos", true)), "");
    EXPECT_EQ(of(set("normalize_activations", nullptr)), "");
}

TEST(Saelens, MissingAndDamagedFiles) {
    const Folder folder;
    EXPECT_THROW(saelens::read(folder / "none"), RunError);
    saelens::write(folder / "sae", make("topk", 4, 8));
    const std::string config = read_file(folder / "sae/cfg.json");
    for (std::size_t size = 0; size + 2 < config.size(); ++size) {
        write_file(folder / "sae/cfg.json", config.substr(0, size));
        EXPECT_THROW(saelens::read(folder / "sae"), RunError) << size;
    }
    std::filesystem::remove(folder / "sae/cfg.json");
    EXPECT_THROW(saelens::read(folder / "sae"), RunError);
    write_file(folder / "sae/cfg.json", config);
    EXPECT_NO_THROW(saelens::read(folder / "sae"));
    std::filesystem::resize_file(folder / "sae/sae_weights.safetensors", 200);
    EXPECT_THROW(saelens::read(folder / "sae"), RunError);
}

TEST(Saelens, ReadsHalfPrecision) {
    const Folder folder;
    saelens::write(folder / "sae", make("standard", 1, 2));
    const std::vector<std::uint16_t> two = {0x3c00, 0xc000};  // 1, -2
    const auto bytes = std::as_bytes(std::span(two));
    safetensors::write(folder / "sae/sae_weights.safetensors",
                       std::vector<safetensors::Tensor>{{"W_enc", "F16", {1, 2}, bytes},
                                                        {"W_dec", "F16", {2, 1}, bytes},
                                                        {"b_enc", "F16", {2}, bytes},
                                                        {"b_dec", "F16", {1}, bytes.first(2)}});
    const SavedSae sae = saelens::read(folder / "sae");
    EXPECT_EQ(sae.w_enc, (std::vector<float>{1, -2}));
    EXPECT_EQ(sae.b_dec, (std::vector<float>{1}));
}

double preactivation(const SavedSae& sae, const std::vector<double>& x, std::int64_t latent) {
    double z = sae.b_enc[static_cast<std::size_t>(latent)];
    for (std::int64_t i = 0; i < sae.n; ++i)
        z += (x[static_cast<std::size_t>(i)] - static_cast<double>(sae.b_dec[static_cast<std::size_t>(i)])) *
             static_cast<double>(sae.w_enc[static_cast<std::size_t>(latent * sae.n + i)]);
    return z;
}

// Raw rows through the folded SAE select the latents that scaled rows select in the trained one, with values
// divided by the scale. A decoder row of norm zero stays zero.
TEST(Saelens, FoldingTheScaleKeepsTheCodes) {
    for (const double scale : {0.037, 1.0, 250.0}) {
        SavedSae trained = make("jumprelu", 24, 50);
        for (std::size_t i = 0; i < 24; ++i) trained.w_dec[i] = 0;
        SavedSae folded = trained;
        saelens::fold_scale(folded, scale);
        EXPECT_EQ(folded.w_enc, trained.w_enc);
        EXPECT_EQ(folded.w_dec, trained.w_dec);
        const Folder folder;
        saelens::write(folder / "sae", folded);
        folded = saelens::read(folder / "sae");
        for (std::size_t i = 0; i < 24; ++i) EXPECT_EQ(folded.w_dec[i], 0);

        Random random(3, Purpose::synthetic);
        int active = 0, compared = 0;
        for (int row = 0; row < 40; ++row) {
            std::vector<double> x(24), scaled(24);
            for (std::size_t i = 0; i < x.size(); ++i) {
                x[i] = random.normal() / scale;
                scaled[i] = x[i] * scale;
            }
            for (std::int64_t latent = 0; latent < trained.width; ++latent) {
                const double z = preactivation(trained, scaled, latent);
                const double t = trained.threshold[static_cast<std::size_t>(latent)];
                const double z_folded = preactivation(folded, x, latent);
                EXPECT_NEAR(z_folded * scale, z, 1e-4);
                if (std::abs(z - t) < 1e-4) continue;
                EXPECT_EQ(z_folded > static_cast<double>(folded.threshold[static_cast<std::size_t>(latent)]),
                          z > t);
                active += z > t;
                ++compared;
            }
        }
        EXPECT_GT(active, 100);
        EXPECT_GT(compared - active, 100);
    }
    SavedSae sae = make("topk", 4, 8);
    for (const double scale : {0.0, -1.0, std::nan(""), HUGE_VAL})
        EXPECT_THROW(saelens::fold_scale(sae, scale), RunError);
}

}  // namespace
}  // namespace strata
