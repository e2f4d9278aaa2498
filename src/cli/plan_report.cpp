#include "cli/plan_report.h"

#include <fmt/format.h>

namespace strata::cli {

using Json = nlohmann::ordered_json;

namespace {

Json bytes_json(const suite::RankMemory& memory) {
    Json result = Json::object();
    for (const suite::RankMemory::Part& part : memory.parts()) result[std::string(part.name)] = part.bytes;
    result["total"] = memory.total();
    return result;
}

}  // namespace

Json job_json(const PlannedJob& one, const Config& config) {
    const auto saes = static_cast<double>(one.job.saes.size());
    const double rate = static_cast<double>(config.train.batch_size) / one.step_seconds;
    const double row = suite::row_bytes(one.job.dataset);
    const suite::Traffic traffic =
        suite::traffic_of(one.job, one.place, config.train.batch_size * one.place.on_host / one.place.ranks);
    double matrices = 0;
    for (const SaeConfig& sae : one.job.saes)
        matrices += 8.0 * static_cast<double>(one.job.dataset.n) * static_cast<double>(sae.width);
    return {{"name", one.job.name},
            {"dataset", one.job.dataset.name},
            {"saes", one.job.names},
            {"group", one.turn.group},
            {"ranks", one.place.ranks},
            {"ranks_on_host", one.place.on_host},
            {"hosts", one.place.hosts},
            {"start_hours", one.turn.start / 3600},
            {"hours", (one.turn.end - one.turn.start) / 3600},
            {"steps", config.train.steps()},
            {"seconds_per_step", one.step_seconds},
            {"rows_per_second", rate},
            {"memory", bytes_json(one.memory)},
            {"gpu_memory", one.place.on_gpus ? bytes_json(one.gpu) : Json()},
            {"step_bytes",
             {{"gradients_written", matrices / one.place.sharing},
              {"batch_shared", traffic.shared / one.place.on_host},
              {"weights_written", matrices / one.place.sharing},
              {"sent_by_host", traffic.sent}}},
            {"file_bytes_per_second", rate * row},
            {"file_bytes_per_second_and_sae", rate * row / saes}};
}

void print_table(const Json& plan) {
    const auto number = [](const Json& value) { return value.get<double>(); };
    fmt::print("{} rank{} on {} host{}, {} thread{} each; {} group{}; up to {} SAE{} on a stream\n",
               plan["ranks"].dump(), plan["ranks"] == 1 ? "" : "s", plan["hosts"].dump(),
               plan["hosts"] == 1 ? "" : "s", plan["threads"].dump(), plan["threads"] == 1 ? "" : "s",
               plan["groups"].dump(), plan["groups"] == 1 ? "" : "s", plan["saes_per_job"].dump(),
               plan["saes_per_job"] == 1 ? "" : "s");
    fmt::print("memory of the fullest host: {:.2f} GiB of {:.2f}, of which {:.2f} may be filled\n",
               number(plan["memory"]["needed"]) / gib, number(plan["memory"]["host"]) / gib,
               number(plan["memory"]["room"]) / gib);
    if (plan["memory"]["shared_rows"] > 0)
        fmt::print("  of it {:.1f} MiB of rows that groups share\n",
                   number(plan["memory"]["shared_rows"]) / (1024 * 1024));
    if (const Json& gpu = plan["gpu_memory"]; !gpu.is_null())
        fmt::print("memory of the fullest GPU: {:.2f} GiB of {:.2f} free, of which {:.2f} may be filled\n",
                   number(gpu["needed"]) / gib, number(gpu["free"]) / gib, number(gpu["room"]) / gib);
    if (plan["micro_batch"] > 0)
        fmt::print("GPUs hold at most {} rows of a batch at a time\n", plan["micro_batch"].dump());
    fmt::print("\n");
    fmt::print("{:<28} {:>5} {:>6} {:>6} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}\n", "job", "SAEs",
               "group", "ranks", "ms/step", "rows/s", "GiB/rank", "MB grad.", "MB sent", "MB/s read",
               "from h", "hours");
    for (const Json& job : plan["jobs"]) {
        const Json& bytes = job["step_bytes"];
        fmt::print(
            "{:<28} {:>5} {:>6} {:>6} {:>10.1f} {:>10.0f} {:>9.3f} {:>9.1f} {:>9.1f} {:>9.1f} {:>8.2f} "
            "{:>8.2f}\n",
            job["name"].get<std::string>(), job["saes"].size(), job["group"].dump(), job["ranks"].dump(),
            1e3 * number(job["seconds_per_step"]), number(job["rows_per_second"]),
            number(job["memory"]["total"]) / gib,
            (number(bytes["gradients_written"]) + number(bytes["batch_shared"])) / 1e6,
            number(bytes["sent_by_host"]) / 1e6, number(job["file_bytes_per_second"]) / 1e6,
            number(job["start_hours"]), number(job["hours"]));
    }
    const Json* largest = nullptr;
    for (const Json& job : plan["jobs"])
        if (largest == nullptr || job["memory"]["total"] > (*largest)["memory"]["total"]) largest = &job;
    const auto print_parts = [&](const char* key, const char* where) {
        if ((*largest)[key].is_null()) return;
        fmt::print("\nmemory of {} of {}:\n", where, (*largest)["name"].get<std::string>());
        for (const auto& [name, bytes] : (*largest)[key].items())
            if (bytes != 0) fmt::print("  {:<12} {:>10.1f} MiB\n", name, number(bytes) / (1024 * 1024));
    };
    print_parts("memory", "the first rank");
    print_parts("gpu_memory", "the GPU of a rank");
    fmt::print("\n{} job{}, {} steps each: {:.2f} hours\n", plan["jobs"].size(),
               plan["jobs"].size() == 1 ? "" : "s", plan["jobs"][0]["steps"].dump(), number(plan["hours"]));
}

}  // namespace strata::cli
