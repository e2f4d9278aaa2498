// Sums of GPU memory by NCCL, on a stream beside that of the device's work. Compiled into a library of its
// own (device/backend.h), so that a program without it, or with one rank, does without NCCL.
//
// The communicator is a non-blocking one: calls return before they are through, so that a rank whose peers
// are gone finds out by asking (ncclCommGetAsyncError) and can leave (ncclCommAbort) instead of waiting for
// ever.

#include <cuda_runtime.h>
#include <nccl.h>

#include <chrono>
#include <exception>
#include <future>
#include <string>
#include <thread>
#include <utility>

#include "base/error.h"
#include "device/backend.h"
#include "device/cuda/runtime.h"

namespace strata {
namespace {

namespace cuda = device::cuda;
using Clock = std::chrono::steady_clock;

constexpr const char* of_sums = "the sums over ranks";

std::string described(int version) {
    return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

class NcclSums final : public DeviceSums {
  public:
    NcclSums(Communicator& host, cudaStream_t work, double limit)
        : rank_(host.rank()), ranks_(host.size()), limit_(limit), work_(work) {
        ncclUniqueId id{};
        if (rank_ == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
        host.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        config.blocking = 0;
        check(ncclCommInitRankConfig(&comm_, ranks_, id, rank_, &config), "ncclCommInitRankConfig");
        settle("ncclCommInitRankConfig");
    }

    // After an error others may not come to an orderly end.
    ~NcclSums() override {
        if (comm_ != nullptr) {
            bool ended = std::uncaught_exceptions() == errors_;
            if (ended) {
                try {
                    check(ncclCommFinalize(comm_), "ncclCommFinalize");
                    settle("ncclCommFinalize");
                } catch (const RunError&) {
                    ended = false;  // settle() has left the communicator
                }
            }
            if (comm_ != nullptr && ended)
                ncclCommDestroy(comm_);
            else
                abort();
        }
    }

    void add(std::span<const Part> parts) override {
        each(parts, "ncclReduce", [&](float* values, std::size_t count, int owner) {
            return owner == everyone
                       ? ncclAllReduce(values, values, count, ncclFloat, ncclSum, comm_, sums_)
                       : ncclReduce(values, values, count, ncclFloat, ncclSum, owner, comm_, sums_);
        });
    }

    void spread(std::span<const Part> parts) override {
        each(parts, "ncclBroadcast", [&](float* values, std::size_t count, int owner) {
            return ncclBroadcast(values, values, count, ncclFloat, owner, comm_, sums_);
        });
    }

    void add_counts(std::span<std::uint64_t> counts) override {
        group("ncclAllReduce", [&] {
            return ncclAllReduce(counts.data(), counts.data(), counts.size(), ncclUint64, ncclSum, comm_,
                                 sums_);
        });
        summed_.record(sums_, of_sums);
        summed_.hold(work_, of_sums);
    }

    void finish() override {
        summed_.record(sums_, of_sums);
        wait(of_sums, [&] {
            const cudaError_t state = cudaEventQuery(summed_);
            if (state != cudaErrorNotReady) cuda::check(state, "cudaEventQuery", of_sums);
            return state == cudaSuccess;
        });
    }

  private:
    template <typename Call>
    void each(std::span<const Part> parts, const char* what, const Call& call) {
        group(what, [&] {
            ncclResult_t status = ncclSuccess;
            for (const Part& part : parts)
                if (!part.values.empty() && (status == ncclSuccess || status == ncclInProgress))
                    status = call(part.values.data(), part.values.size(), part.owner);
            return status;
        });
    }

    // One group of calls, behind the device's work. It is ended after an error too: an abort would wait for
    // that.
    template <typename Calls>
    void group(const char* what, const Calls& calls) {
        made_.record(work_, of_sums);
        made_.hold(sums_, of_sums);
        check(ncclGroupStart(), "ncclGroupStart");
        const ncclResult_t status = calls();
        const ncclResult_t ended = ncclGroupEnd();
        check(status, what);
        check(ended, "ncclGroupEnd");
        settle("ncclGroupEnd");  // only then they are in the stream
    }

    // Calls of a non-blocking communicator may say that they are still at it.
    void check(ncclResult_t status, const char* what) {
        if (status != ncclSuccess && status != ncclInProgress) give_up(what, ncclGetErrorString(status));
    }

    [[noreturn]] void give_up(const char* what, const std::string& why) {
        const std::string last = comm_ != nullptr ? ncclGetLastError(comm_) : "";
        abort();
        fail("rank {} of {}: {}: {}{}{}; NCCL_DEBUG=WARN says more; continue with --resume", rank_, ranks_,
             what, why, last.empty() ? "" : ": ", last);
    }

    // An abort first tells what it has on the GPU to end, and then may wait for ever for threads of its own
    // or for other ranks (github.com/NVIDIA/nccl #863, #1777). This rank has something to say, and ends.
    void abort() {
        if (comm_ == nullptr) return;
        std::promise<void> aborted;
        const std::future<void> end = aborted.get_future();
        std::thread([comm = std::exchange(comm_, nullptr), aborted = std::move(aborted)]() mutable {
            ncclCommAbort(comm);
            aborted.set_value();
        }).detach();
        end.wait_for(std::chrono::seconds(10));
    }

    // Until the communicator is through with what it was told.
    void settle(const char* what) {
        wait(what, [&] {
            ncclResult_t state = ncclSuccess;
            ncclCommGetAsyncError(comm_, &state);
            return state != ncclInProgress;
        });
    }

    template <typename Done>
    void wait(const char* what, const Done& done) {
        const Clock::time_point begun = Clock::now();
        while (!done()) {
            ncclResult_t state = ncclSuccess;
            check(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
            check(state, what);
            const double waited = std::chrono::duration<double>(Clock::now() - begun).count();
            if (limit_ > 0 && waited > limit_)
                give_up(what,
                        fmt::format("not done after {:.0f} s: another rank, or the link to it, does not "
                                    "answer (ten times run.watchdog)",
                                    waited));
            std::this_thread::yield();
        }
        ncclResult_t state = ncclSuccess;
        check(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
        check(state, what);
    }

    int rank_, ranks_;
    double limit_;
    int errors_ = std::uncaught_exceptions();
    ncclComm_t comm_ = nullptr;
    cudaStream_t work_;
    cuda::Stream sums_;
    cuda::Event made_, summed_;
};

std::string library() {
    int version = 0;
    ncclGetVersion(&version);
    return described(version);
}

std::unique_ptr<DeviceSums> make(Communicator& comm, void* stream, double limit) {
    return std::make_unique<NcclSums>(comm, static_cast<cudaStream_t>(stream), limit);
}

}  // namespace
}  // namespace strata

extern "C" const strata::device::NcclBackend* strata_nccl_backend() {
    static const strata::device::NcclBackend backend = {STRATA_VERSION, strata::library, strata::make};
    return &backend;
}
