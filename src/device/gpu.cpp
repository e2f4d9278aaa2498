#include "device/gpu.h"

#include <dlfcn.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "comm/agree.h"

namespace strata::device {
namespace {

namespace fs = std::filesystem;

// A library's table of functions, or why it is not to be had.
template <typename Backend>
struct Opened {
    const Backend* backend = nullptr;
    std::string why_not;
};

fs::path backend_path() {
    if (const char* given = std::getenv("STRATA_GPU_BACKEND"); given != nullptr && *given != '\0')
        return given;
    Dl_info self{};
    ::dladdr(reinterpret_cast<const void*>(&find_gpus), &self);
    return fs::path(self.dli_fname).parent_path() / "libstrata_cuda.so";
}

// The one for NCCL lies beside the other: libstrata_cuda.so, libstrata_cuda_nccl.so.
fs::path nccl_path() {
    const fs::path backend = backend_path();
    return backend.parent_path() / (backend.stem().string() + "_nccl.so");
}

template <typename Backend>
Opened<Backend> open(const fs::path& path, const char* entry, const char* missing) {
    Opened<Backend> opened;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
        opened.why_not = fmt::format("{} ({} does not exist)", missing, path.string());
        return opened;
    }
    // Never closed: CUDA's runtime has threads and handlers of its own.
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* function = library != nullptr ? ::dlsym(library, entry) : nullptr;
    if (function == nullptr) {
        opened.why_not = ::dlerror();
        return opened;
    }
    opened.backend = reinterpret_cast<const Backend* (*)()>(function)();
    if (std::string(opened.backend->version) != STRATA_VERSION) {
        opened.why_not = fmt::format("{} is of strata {}, this is {}; install both from one build",
                                     path.string(), opened.backend->version, STRATA_VERSION);
        opened.backend = nullptr;
    }
    return opened;
}

// CUDA's libraries take 0.4 s and 200 MB to open, which a host without a driver need not pay to hear that it
// has none.
const Opened<GpuBackend>& gpu_backend() {
    static const Opened<GpuBackend> opened = [] {
        const fs::path path = backend_path();
        if (std::getenv("STRATA_GPU_BACKEND") == nullptr && fs::exists(path) &&
            ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr)
            return Opened<GpuBackend>{nullptr, fmt::format("no NVIDIA driver ({})", ::dlerror())};
        return open<GpuBackend>(path, gpu_entry, "built without CUDA");
    }();
    return opened;
}

const Opened<NcclBackend>& nccl_backend() {
    static const Opened<NcclBackend> opened =
        open<NcclBackend>(nccl_path(), nccl_entry, "built without NCCL");
    return opened;
}

// run.encoder as a GPU has it.
std::string product_of(const std::string& encoder) {
    return encoder == "screened" ? "bf16" : encoder;
}

// The lowest rank on which it is so; -1: none. Collective.
int lowest_rank(Communicator& comm, bool here) {
    const std::uint64_t mine = here ? 1 : 0;
    std::vector<std::uint64_t> all(static_cast<std::size_t>(comm.size()));
    comm.gather({&mine, 1}, all);
    const auto found = std::ranges::find(all, 1U);
    return found == all.end() ? -1 : static_cast<int>(found - all.begin());
}

// The GPU of this rank: that of its place on the host, of those that its process may use. Launchers that give
// every rank one GPU to see give all of them the number 0. Collective.
int own_gpu(Communicator& comm, const std::vector<Gpu>& gpus) {
    const std::unique_ptr<Communicator> host = comm.on_node();
    const int ordinal = host->rank() % static_cast<int>(gpus.size());
    const std::uint64_t mine = std::hash<std::string>()(gpus[static_cast<std::size_t>(ordinal)].id);
    std::vector<std::uint64_t> all(static_cast<std::size_t>(host->size()));
    host->gather({&mine, 1}, all);
    const std::size_t different = std::set(all.begin(), all.end()).size();
    together(comm, [&] {
        if (different < all.size())
            refuse(
                "run.device: {} ranks on the host of rank {} and {} GPU{} for them; a GPU serves one rank: "
                "start {} "
                "rank{} there, or set run.device: cpu",
                all.size(), comm.rank(), different, different == 1 ? "" : "s", different,
                different == 1 ? "" : "s");
    });
    return ordinal;
}

}  // namespace

const FoundGpus& find_gpus() {
    static const FoundGpus found = [] {
        const Opened<GpuBackend>& opened = gpu_backend();
        return opened.backend != nullptr ? opened.backend->find() : FoundGpus{{}, {}, opened.why_not};
    }();
    return found;
}

std::string nccl_described() {
    const Opened<NcclBackend>& opened = nccl_backend();
    return opened.backend != nullptr ? opened.backend->library() : opened.why_not;
}

std::unique_ptr<Device> make_device(Communicator& comm, const DeviceOptions& options) {
    std::unique_ptr<Device> device;
    bool gpu = options.device != "cpu";
    if (gpu) {
        const bool none_here = find_gpus().gpus.empty();
        const int without = lowest_rank(comm, none_here);
        if (options.device == "cuda")
            together(comm, [&] {
                if (none_here)
                    refuse("run.device: cuda: rank {} has no GPU: {}", comm.rank(), find_gpus().why_none);
            });
        if (lowest_rank(comm, !none_here) >= 0 && without == comm.rank())
            log::warn("run.device: auto: all ranks compute on the CPU, since rank {} has no GPU: {}",
                      comm.rank(), find_gpus().why_none);
        gpu = without < 0;
    }
    if (!gpu) {
        together(comm, [&] { device = make_cpu_device(options.threads, options.cpu); });
        return device;
    }
    omp_set_num_threads(options.threads);  // of what the host does beside it
    const int ordinal = own_gpu(comm, find_gpus().gpus);
    together(comm, [&] { device = gpu_backend().backend->make(ordinal, {product_of(options.cpu.encoder)}); });
    return device;
}

std::int64_t free_memory(const Device& device) {
    return device.host_memory() ? 0 : gpu_backend().backend->free_memory();
}

std::unique_ptr<DeviceSums> make_device_sums(Communicator& comm, Device& device, double limit) {
    if (device.host_memory() || comm.size() == 1) return nullptr;
    const Opened<NcclBackend>& nccl = nccl_backend();
    const int without = lowest_rank(comm, nccl.backend == nullptr);
    if (without < 0) return nccl.backend->make(comm, gpu_backend().backend->stream(device), limit);
    if (without == comm.rank())
        log::warn("rank {} has no NCCL ({}): what GPUs hold is summed by MPI through host memory",
                  comm.rank(), nccl.why_not);
    return make_staged_sums(comm, device);
}

}  // namespace strata::device
