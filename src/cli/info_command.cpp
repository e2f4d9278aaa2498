#include <H5public.h>
#include <mpi.h>
#include <omp.h>
#include <dnnl.hpp>

#include <cstdio>

#include "base/error.h"
#include "cli/command.h"
#include "device/cpu/kernels.h"
#include "device/gpu.h"

namespace strata::cli {
namespace {

int print_info() {
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = {};
    int length = 0;
    MPI_Get_library_version(mpi, &length);
    std::string mpi_line(mpi);
    mpi_line.resize(std::min(mpi_line.size(), mpi_line.find(',')));
    std::string sets;
    for (const device::Kernels& k : device::all_kernels())
        sets += fmt::format("{}{}", sets.empty() ? "" : " ", k.target);
    const dnnl_version_t* dnnl = dnnl_version();
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    fmt::print("strata   {}\n", STRATA_VERSION);
    const device::FoundGpus& found = device::find_gpus();
    fmt::print("devices  cpu ({} cores)\n", omp_get_num_procs());
    for (const device::Gpu& gpu : found.gpus)
        fmt::print("         cuda, {} ({:.0f} GiB)\n", gpu.name,
                   static_cast<double>(gpu.memory) / (1024.0 * 1024 * 1024));
    if (found.gpus.empty())
        fmt::print("GPUs     none: {}\n", found.why_none);
    else
        fmt::print("GPUs     {}; {}\n", found.libraries, device::nccl_described());
    fmt::print("kernels  {} (of {})\n", device::kernels().target, sets);
    fmt::print("oneDNN   {}.{}.{}\n", dnnl->major, dnnl->minor, dnnl->patch);
    fmt::print("MPI      {}\n", mpi_line);
    fmt::print("HDF5     {}.{}.{}\n", major, minor, release);
    return exit_done;
}

}  // namespace

void add_info_command(CLI::App& app, Action& action) {
    CLI::App* command = app.add_subcommand("info", "Version, devices, CPU features, libraries");
    command->footer("Example: strata info");
    command->callback([&action] { action = print_info; });
}

}  // namespace strata::cli
