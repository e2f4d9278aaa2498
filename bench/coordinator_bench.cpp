// Messages to the coordinator. Definitions:
//   Tell      lines of metrics, as a group sends them at a logged step, until the last is in the file

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/file.h"
#include "comm/mpi.h"
#include "train/coordinator.h"

namespace {

using namespace strata;
using namespace strata::train;

struct Desk {
    std::filesystem::path output =
        std::filesystem::temp_directory_path() / ("strata-coordinator-" + std::to_string(::getpid()));
    std::vector<suite::Job> jobs = std::vector<suite::Job>(1);
    Config config;
    std::unique_ptr<Coordinator> coordinator;

    Desk() {
        std::filesystem::create_directories(output);
        config.saes.emplace_back();
        coordinator = std::make_unique<Coordinator>(output, jobs, std::set<std::string>(),
                                                    Journal(output, config, jobs, {}),
                                                    MetricsFile(output / "metrics.jsonl"));
    }
    ~Desk() { std::filesystem::remove_all(output); }
};

// Rank 0 speaks to itself as the first rank of another group would.
struct Mpi {
    int argc = 0;
    char** argv = nullptr;
    MpiSession session{argc, argv};
    std::unique_ptr<Communicator> comm = make_mpi_communicator();
};
Mpi& mpi() {
    static Mpi one;
    return one;
}

void tell(benchmark::State& state) {
    Desk desk;
    Metrics line;
    line.sae = "resid_post.12.batch_topk.w16384.k64";
    const std::string lines = to_json(line).dump() + '\n';
    const std::unique_ptr<Communicator> mail = mpi().comm->duplicate();
    CoordinatorLine one(nullptr, *mail, 1);
    std::uintmax_t expected = 0;
    for (auto _ : state) {
        for (std::int64_t i = 0; i < state.range(0); ++i) one.metrics(lines);
        const CoordinatorThread thread(desk.coordinator.get(), *mail);  // one thread at a time has the mail
        expected += static_cast<std::uintmax_t>(state.range(0)) * lines.size();
        while (std::filesystem::file_size(desk.output / "metrics.jsonl") < expected) ::usleep(200);
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(tell)->Name("Coordinator_Tell")->Arg(1000)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
