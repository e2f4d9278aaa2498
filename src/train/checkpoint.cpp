#include "train/checkpoint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "comm/agree.h"
#include "train/checkpoint_share.h"

namespace strata::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int format_version = 3;

json statistics_to_json(const data::InputStatistics& s) {
    return {{"median_norm", s.median_norm},
            {"norm_limit", s.norm_limit},
            {"mean_square", s.mean_square},
            {"scale", s.scale},
            {"mean", s.mean},
            {"target_mean", s.target_mean},
            {"sampled_rows", s.sampled_rows}};
}

data::InputStatistics statistics_from_json(const json& j) {
    data::InputStatistics s;
    s.median_norm = j.at("median_norm");
    s.norm_limit = j.at("norm_limit");
    s.mean_square = j.at("mean_square");
    s.scale = j.at("scale");
    s.mean = j.at("mean").get<std::vector<double>>();
    s.target_mean = j.value("target_mean", std::vector<double>());
    s.sampled_rows = j.at("sampled_rows");
    return s;
}

// Complete checkpoints, newest first.
std::vector<std::pair<std::int64_t, fs::path>> complete_checkpoints(const fs::path& folder) {
    std::vector<std::pair<std::int64_t, fs::path>> found;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(folder, none)) {
        const std::string name = entry.path().filename().string();
        std::int64_t number = 0;
        const char* end = name.data() + name.size();
        if (!name.starts_with("step-") || std::from_chars(name.data() + 5, end, number).ptr != end) continue;
        if (fs::exists(entry.path() / "manifest.json")) found.emplace_back(number, entry.path());
    }
    std::ranges::sort(found, std::greater<>());
    return found;
}

json manifest_of(const Progress& progress, std::span<const TrainedSae> saes, int ranks) {
    json cursors = json::array();
    for (const data::LaneCursor& c : progress.cursors)
        cursors.push_back({c.pass, c.block, c.offset, c.skipped, c.corrupt});
    json list = json::array();
    for (const TrainedSae& sae : saes)
        list.push_back({{"name", sae.name},
                        {"guess", sae.guess},
                        {"margin", sae.margin},
                        {"density", sae.density},
                        {"largest_rate", sae.largest_rate},
                        {"weight_sum", sae.weight_sum},
                        {"atm_steps", sae.atm.steps},
                        {"resampled_at", sae.resampled_at}});
    return {{"format", format_version},
            {"version", STRATA_VERSION},
            {"ranks", ranks},
            {"step", progress.step},
            {"statistics", statistics_to_json(progress.statistics)},
            {"cursors", cursors},
            {"saes", list}};
}

json read_manifest(const fs::path& folder) {
    const fs::path path = folder / "manifest.json";
    try {
        json manifest = json::parse(read_file(path));
        if (manifest.at("format") != format_version)
            fail("{}: format {}, this version of strata reads format {}", path.string(),
                 manifest.at("format").dump(), format_version);
        return manifest;
    } catch (const json::exception& e) {
        fail("{}: not a valid manifest ({}); delete the folder to continue from the checkpoint before it",
             path.string(), e.what());
    }
}

}  // namespace

CheckpointWriter::CheckpointWriter(fs::path folder, device::Device& device, const Replicas& replicas,
                                   std::int64_t keep)
    : folder_(std::move(folder)), device_(device), replicas_(replicas), keep_(keep) {}

CheckpointWriter::~CheckpointWriter() {
    if (thread_.joinable()) thread_.join();
}

void CheckpointWriter::give_up() {
    std::error_code ignored;  // the reason for which the checkpoint failed has been told
    if (replicas_.all.rank() == 0) fs::remove_all(unfinished_, ignored);
}

void CheckpointWriter::begin(const Progress& progress, std::span<TrainedSae> saes) {
    STRATA_ASSERT(!pending());
    Communicator& comm = replicas_.all;
    unfinished_ = folder_ / fmt::format("step-{}", progress.step);
    try {
        together(comm, [&] {
            if (comm.rank() != 0) return;
            fs::remove_all(unfinished_);
            fs::create_directories(unfinished_);
            manifest_ = manifest_of(progress, saes, comm.size()).dump();
        });
    } catch (const Ended&) {
        give_up();
        throw;
    }
    files_.resize(saes.size() * set_names.size());
    slices_.clear();
    for (std::size_t i = 0; i < saes.size(); ++i) {
        const Slice slice = replicas_.saved(saes[i].parameters.width);
        slices_.push_back(static_cast<std::uint64_t>(slice.first));
        slices_.push_back(static_cast<std::uint64_t>(slice.last));
        for (std::size_t set = 0; set < set_names.size(); ++set) {
            StagedFile& file = files_[i * set_names.size() + set];
            file.path = file_of(unfinished_, saes[i].name, set, comm.rank(), comm.size());
            stage_share(file.path, saes[i], set, device_, slice, comm.rank(), file.bytes, file.tensors);
        }
    }
    written_ = false;
    error_ = nullptr;
    thread_ = std::thread([this] {
        try {
            checksums_.clear();
            for (const StagedFile& file : files_) {
                std::uint32_t crc = 0;
                for (const safetensors::Tensor& tensor : file.tensors) crc = checksum(tensor.data, crc);
                checksums_.push_back(crc);
                const std::array all = {std::span<const std::byte>(file.bytes)};
                write_file(file.path, all);
            }
        } catch (...) {
            error_ = std::current_exception();
        }
        written_ = true;
    });
}

void CheckpointWriter::finish() {
    Communicator& comm = replicas_.all;
    thread_.join();
    try {
        together(comm, [&] {
            if (error_) std::rethrow_exception(error_);
        });
        const auto ranks = static_cast<std::size_t>(comm.size());
        std::vector<std::uint64_t> checksums(checksums_.size() * ranks), slices(slices_.size() * ranks);
        comm.gather(checksums_, checksums);
        comm.gather(slices_, slices);
        together(comm, [&] {
            if (comm.rank() != 0) return;
            json manifest = json::parse(manifest_);
            manifest["slices"] = slices;
            manifest["checksums"] = checksums;
            write_file(unfinished_ / "manifest.json", manifest.dump(1));
            sync_folder(folder_);
        });
    } catch (const Ended&) {
        give_up();
        throw;
    }
    if (comm.rank() != 0) return;
    const auto complete = complete_checkpoints(folder_);
    for (std::size_t i = static_cast<std::size_t>(keep_); i < complete.size(); ++i) {
        fs::remove(complete[i].second / "manifest.json");  // first, so that what is left is no checkpoint
        fs::remove_all(complete[i].second);
    }
    std::vector<fs::path> rest;  // of a run that was killed while it wrote or removed one
    for (const auto& entry : fs::directory_iterator(folder_))
        if (!fs::exists(entry.path() / "manifest.json")) rest.push_back(entry.path());
    for (const fs::path& path : rest) fs::remove_all(path);
}

std::optional<Checkpoint> newest_checkpoint(const fs::path& folder) {
    const auto complete = complete_checkpoints(folder);
    if (complete.empty()) return std::nullopt;
    Checkpoint checkpoint;
    checkpoint.folder = complete.front().second;
    const json manifest = read_manifest(checkpoint.folder);
    try {
        Progress& p = checkpoint.progress;
        p.step = manifest.at("step");
        p.statistics = statistics_from_json(manifest.at("statistics"));
        for (const json& c : manifest.at("cursors"))
            p.cursors.push_back({c.at(0), c.at(1), c.at(2), c.at(3), c.at(4)});
    } catch (const json::exception& e) {
        fail("{}: not a valid manifest ({})", (checkpoint.folder / "manifest.json").string(), e.what());
    }
    return checkpoint;
}

void load_checkpoint(const Checkpoint& checkpoint, std::span<TrainedSae> saes, device::Device& device,
                     const Replicas& replicas) {
    const json manifest = read_manifest(checkpoint.folder);
    const int ranks = manifest.at("ranks");
    const auto checksums = manifest.at("checksums").get<std::vector<std::uint64_t>>();
    const std::size_t per_rank = saes.size() * set_names.size();
    if (manifest.at("saes").size() != saes.size() ||
        checksums.size() != per_rank * static_cast<std::size_t>(ranks))
        fail("{}: holds {} SAEs, {} expected", checkpoint.folder.string(), manifest.at("saes").size(),
             saes.size());
    const auto slices = manifest.at("slices").get<std::vector<std::int64_t>>();
    for (std::size_t i = 0; i < saes.size(); ++i) {
        TrainedSae& sae = saes[i];
        const json& saved = manifest.at("saes")[i];
        sae.guess = saved.at("guess");
        sae.margin = saved.at("margin");
        sae.density = saved.at("density");
        sae.largest_rate = saved.at("largest_rate");
        sae.weight_sum = saved.at("weight_sum");
        sae.atm.steps = saved.at("atm_steps");
        sae.resampled_at = saved.at("resampled_at");
        const Slice updated = replicas.updated(sae.parameters.width);
        const Slice written = replicas.written(sae.parameters.width);
        for (std::size_t rank = 0; rank < static_cast<std::size_t>(ranks); ++rank) {
            const std::size_t at = 2 * (rank * saes.size() + i);
            const Slice slice = {slices.at(at), slices.at(at + 1)};
            if (slice.first < 0 || slice.first > slice.last || slice.last > sae.parameters.width)
                fail("{}: latents {} to {} of {}; it belongs to another run", checkpoint.folder.string(),
                     slice.first, slice.last, sae.parameters.width);
            try {
                for (std::size_t set = 0; set < set_names.size(); ++set)
                    read_share(
                        file_of(checkpoint.folder, sae.name, set, static_cast<int>(rank), ranks), sae, set,
                        device, slice, static_cast<int>(rank), set == 0 ? written : updated,
                        static_cast<std::uint32_t>(checksums[rank * per_rank + i * set_names.size() + set]));
            } catch (const RunError& error) {
                fail("{}; delete the folder {} to continue from the checkpoint before it", error.what(),
                     checkpoint.folder.string());
            }
        }
    }
}

}  // namespace strata::train
