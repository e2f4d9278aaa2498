#include "train/output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "formats/saelens.h"
#include "sae/sae.h"

namespace strata::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const json& definitions() {
    static const json text = {
        {"x", "the rows read; for a transcoder, in these measures, its targets"},
        {"rows",
         "held-out rows evaluated: the last data.eval_rows of the dataset less those over the norm limit and "
         "corrupt ones"},
        {"reconstruction", "mean over rows of the squared error summed over n, in scaled units"},
        {"fvu",
         "sum |x - x_hat|^2 / sum |x - mean x|^2, sums over all evaluated rows, mean over the same rows"},
        {"l0", "mean number of active latents per row by the rule of inference"},
        {"l0_train_rule", "the same by the training rule on batches of train.batch_size rows"},
        {"l1", "mean over rows of the sum of the codes, in scaled units"},
        {"cosine", "mean over rows of cos(x, x_hat)"},
        {"relative_bias", "sum |x_hat|^2 / sum x_hat . x: below 1 where reconstructions shrink"},
        {"fvu_hard_mask",
         "fvu by the rule of inference on the latents whose importance is at or above the threshold"},
        {"l0_hard_mask", "l0 by the same"},
        {"dead_fraction", "latents active on no evaluated row"},
        {"dense_fraction", "latents active on more than a tenth of the evaluated rows"},
        {"silent_fraction", "latents silent for sae.dead_after_tokens training rows at the end"},
        {"threshold", "of inference, in scaled units; raw units in saes/NAME; null where the rule has none"},
        {"scale", "training saw scale * x"},
        {"skipped_rows", "training rows over the norm limit that were left out"},
        {"corrupt_rows",
         "training rows that cannot be read or are not finite and were left out (data.skip_corrupt)"}};
    return text;
}

constexpr const char* journal_name = "journal.jsonl";

// The first there is of what a run leaves; it writes the journal before all others. "" where there is none.
std::string left_in(const fs::path& output) {
    for (const char* name :
         {journal_name, "config.yaml", "checkpoints", "metrics.jsonl", "summary.json", "saes"})
        if (fs::exists(output / name)) return name;
    return {};
}

}  // namespace

OutputLock::OutputLock(const fs::path& output) {
    const fs::path path = output / ".lock";
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor_ < 0)
        refuse("run.output: the folder '{}' cannot be written to: {}", output.string(), std::strerror(errno));
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    const int why = errno;
    if (why == EWOULDBLOCK) {
        ::close(std::exchange(descriptor_, -1));
        refuse("run.output: another run is writing to '{}'; wait for it or choose another folder",
               output.string());
    }
    log::warn("run.output: '{}' cannot be locked ({}); see to it that no other run writes there",
              output.string(), std::strerror(why));
}

OutputLock::OutputLock(OutputLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

OutputLock& OutputLock::operator=(OutputLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
}

OutputLock::~OutputLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

OutputLock open_output(const Config& config, bool resume) {
    const fs::path output = config.run.output;
    std::error_code error;
    fs::create_directories(output, error);
    if (error || !fs::is_directory(output))
        refuse("run.output: cannot make the folder '{}': {}", output.string(),
               error ? error.message() : "a file of that name exists");
    const std::string before = left_in(output);
    if (!before.empty() && before != journal_name)
        refuse(
            "run.output: the folder '{}' holds {}, which a run would replace, but no {} of a run; choose "
            "another folder",
            output.string(), before, journal_name);
    OutputLock lock(output);
    const std::string now = left_in(output);  // also by a run that has ended meanwhile
    if (!now.empty() && !resume)
        refuse(
            "run.output: the folder '{}' already holds a run; continue it with --resume or choose another "
            "folder",
            output.string());
    return lock;
}

void save_sae(const fs::path& output, const Workbench& bench, const TrainedSae& sae,
              const data::Dataset& dataset, const data::InputStatistics& statistics, const Config& config,
              const json& measures) {
    device::Device& device = bench.device;
    saelens::SavedSae saved;
    const bool standard = sae.kind->elementwise() && sae.kind->fold == nullptr;
    saved.architecture = standard                                         ? "standard"
                         : sae.kind->inference == sae::Inference::row_top ? "topk"
                                                                          : "jumprelu";
    saved.n = sae.parameters.n;
    saved.width = sae.parameters.width;
    if (saved.architecture == "topk") saved.k = static_cast<std::int64_t>(sae.config.k);
    saved.w_enc = sae::host_copy(device, sae.parameters.w_enc);
    saved.w_dec = sae::host_copy(device, sae.parameters.w_dec);
    saved.b_enc = sae::host_copy(device, sae.parameters.b_enc);
    saved.b_dec = sae::host_copy(device, sae.parameters.b_dec);
    saved.threshold = sae.thresholds;
    saved.transcoder = sae.parameters.transcoder;
    if (sae.parameters.skip) saved.w_skip = sae::host_copy(device, sae.parameters.w_skip);
    if (sae.kind->fold != nullptr) {
        std::vector<float> own, norms;
        saved.threshold.resize(saved.b_enc.size());
        sae.kind->fold(moment_of(bench, sae, bench.steps, own, norms), saved.w_enc, saved.b_enc,
                       saved.threshold);
    }
    saved.apply_b_dec_to_input = !sae.parameters.transcoder;
    if (!sae.parameters.unit_rows) saelens::fold_decoder_norms(saved);
    saelens::fold_scale(saved, statistics.scale);

    const data::FilePart& part = dataset.parts.front();
    saved.metadata["training_architecture"] = sae.config.kind;
    saved.metadata["l0"] = measures.at("l0");
    if (!part.model.empty()) saved.metadata["model_name"] = part.model;
    // The name that hooks of TransformerLens give to the place, by which SAELens attaches an SAE to a model.
    if (part.layer >= 0)
        for (const char* site : {"resid_pre", "resid_post", "mlp_out", "attn_out"})
            if (part.site == site)
                saved.metadata["hook_name"] = fmt::format("blocks.{}.hook_{}", part.layer, site);
    saved.metadata["strata"] = {{"version", STRATA_VERSION},
                                {"dataset", dataset.name},
                                {"target", dataset.target ? dataset.target->name : ""},
                                {"kind", sae.config.kind},
                                {"scale", statistics.scale},
                                {"norm_limit", statistics.norm_limit},
                                {"max_norm_ratio", config.data.max_norm_ratio},
                                {"seed", config.run.seed},
                                {"tokens", config.train.tokens}};
    const fs::path folder = output / "saes" / sae.name;
    fs::remove_all(folder);
    fs::create_directories(folder.parent_path());
    saelens::write(folder, saved);
}

json summary_entry(const TrainedSae& sae, const data::Dataset& dataset, const eval::Measures& m,
                   double l0_train_rule, const data::InputStatistics& statistics, std::int64_t steps,
                   std::int64_t tokens, const data::LeftOut& left_out, std::int64_t dead) {
    json entry = {{"sae", sae.name},
                  {"dataset", dataset.name},
                  {"kind", sae.config.kind},
                  {"width", sae.config.width},
                  {"steps", steps},
                  {"tokens", tokens},
                  {"lr", sae.rate},
                  {"rows", static_cast<std::int64_t>(m.rows)},
                  {"reconstruction", m.reconstruction},
                  {"fvu", m.fvu},
                  {"l0", m.l0},
                  {"l0_train_rule", l0_train_rule},
                  {"l1", m.l1},
                  {"cosine", m.cosine},
                  {"relative_bias", m.relative_bias},
                  {"dead_fraction", m.dead_fraction},
                  {"dense_fraction", m.dense_fraction},
                  {"silent_fraction", static_cast<double>(dead) / static_cast<double>(sae.config.width)},
                  {"scale", statistics.scale},
                  {"skipped_rows", left_out.skipped},
                  {"corrupt_rows", left_out.corrupt}};
    if (!sae.kind->elementwise()) entry["k"] = sae.config.k;
    entry["threshold"] = sae.thresholds.empty() ? json() : json(sae.thresholds.front());
    return entry;
}

void add_to_summary(const fs::path& output, const json& entries) {
    const fs::path path = output / "summary.json";
    json summary = {{"version", STRATA_VERSION}, {"definitions", definitions()}, {"saes", json::array()}};
    if (fs::exists(path)) {
        const json before = json::parse(read_file(path));
        for (const json& old : before.at("saes")) {
            const bool replaced =
                std::ranges::any_of(entries, [&](const json& e) { return e.at("sae") == old.at("sae"); });
            if (!replaced) summary["saes"].push_back(old);
        }
    }
    for (const json& entry : entries) summary["saes"].push_back(entry);
    write_file(path, summary.dump(1) + "\n");
}

}  // namespace strata::train
