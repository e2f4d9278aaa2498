// NCCL over MPI. A sum is work of its stream: it starts when the stream comes to it, is done when all ranks
// have come, and moves its bytes through host memory.

#include "nccl.h"

#include <mpi.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"

using cuda_on_cpu::die;

struct ncclComm {
    MPI_Comm mpi = MPI_COMM_NULL;
    int rank = 0, ranks = 1, device = 0;
    ncclResult_t state = ncclSuccess;
    int still = 0;  // so many times more it is in progress
    bool finalized = false, aborted = false;
    int sums = 0, pending = 0;
    std::string last_error;
};

namespace {

constexpr int in_progress_times = 3, rendezvous_tag = 21000;

// Communicators that were not destroyed. Aborted ones stay known: their sums may still be in streams.
std::set<ncclComm_t>& live() {
    static std::set<ncclComm_t> all;
    return all;
}

int world_rank() {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

// What NCCL_ON_CPU_FAULT does to the next sum: 'e', 'h', or nothing.
char fault_of(const ncclComm& comm) {
    const char* text = std::getenv("NCCL_ON_CPU_FAULT");
    if (text == nullptr || *text == '\0') return 0;
    const std::string fault = text;
    const std::size_t at = fault.find('@'), colon = fault.find(':');
    if (at == std::string::npos || colon == std::string::npos) die("NCCL_ON_CPU_FAULT: %s?", text);
    const bool now =
        std::stoi(fault.substr(at + 1)) == world_rank() && std::stoi(fault.substr(colon + 1)) == comm.sums;
    return now ? fault.front() : 0;
}

enum class Call { all_reduce, reduce, broadcast };
constexpr std::array<const char*, 3> call_names = {"ncclAllReduce", "ncclReduce", "ncclBroadcast"};

struct Sum {
    Call call;
    ncclDataType_t type;
    int root;  // -1: all
    ncclComm_t comm;
    const void* from;
    void* to;
    std::size_t count;
    cudaStream_t stream;
    std::size_t bytes() const { return count * (type == ncclFloat ? sizeof(float) : sizeof(std::uint64_t)); }
};
thread_local int group_depth = 0;
thread_local std::vector<Sum> group;

// A sum on its way. Asked again until it is done.
class Running {
  public:
    explicit Running(const Sum& sum) : sum_(sum), fault_(fault_of(*sum.comm)) {
        ++sum.comm->sums;
        ++sum.comm->pending;
    }
    bool operator()() {
        ncclComm& comm = *sum_.comm;
        if (comm.aborted) return true;
        if (fault_ == 'e' && comm.state == ncclSuccess) {
            comm.state = ncclRemoteError;
            comm.last_error = "the stand-in was told to fail";
        }
        if (fault_ != 0) return false;
        int done = 0;
        for (; MPI_Test(&request_, &done, MPI_STATUS_IGNORE), done != 0; ++phase_) {
            if (phase_ == 0) compare_counts();
            if (phase_ == 1) begin();
            if (phase_ == 2) return finish();
        }
        return false;
    }

  private:
    // What the ranks must give alike: the count, and which call with which root and type.
    std::array<std::uint64_t, 2> given() const {
        return {
            static_cast<std::uint64_t>(sum_.count),
            (100 * static_cast<std::uint64_t>(sum_.call) + static_cast<std::uint64_t>(sum_.type)) * 10000 +
                static_cast<std::uint64_t>(sum_.root + 1)};
    }
    const char* name() const { return call_names[static_cast<std::size_t>(sum_.call)]; }
    bool gets_result() const { return sum_.call != Call::reduce || sum_.root == sum_.comm->rank; }
    void compare_counts() {
        const auto [count, call] = given();
        *counts_ = {count, ~count, call, ~call};
        MPI_Iallreduce(MPI_IN_PLACE, counts_->data(), 4, MPI_UINT64_T, MPI_MAX, sum_.comm->mpi, &request_);
    }
    void begin() {
        const auto [count, call] = given();
        const std::uint64_t most = (*counts_)[0], least = ~(*counts_)[1];
        if (most != least)
            die("%s: %zu elements here, %zu on another rank", name(), sum_.count,
                static_cast<std::size_t>(most != count ? most : least));
        if ((*counts_)[2] != ~(*counts_)[3])
            die("%s with root %d: another rank made another call, or with another root or type", name(),
                sum_.root);
        const cuda_on_cpu::Access access;
        const auto* from = static_cast<const std::byte*>(sum_.from);
        values_->assign(from, from + sum_.bytes());
        const MPI_Datatype type = sum_.type == ncclFloat ? MPI_FLOAT : MPI_UINT64_T;
        const auto size = static_cast<int>(sum_.count);
        const bool root = sum_.root == sum_.comm->rank;
        if (sum_.call == Call::all_reduce)
            MPI_Iallreduce(MPI_IN_PLACE, values_->data(), size, type, MPI_SUM, sum_.comm->mpi, &request_);
        else if (sum_.call == Call::reduce)
            MPI_Ireduce(root ? MPI_IN_PLACE : values_->data(), values_->data(), size, type, MPI_SUM,
                        sum_.root, sum_.comm->mpi, &request_);
        else
            MPI_Ibcast(values_->data(), size, type, sum_.root, sum_.comm->mpi, &request_);
    }
    bool finish() {
        const cuda_on_cpu::Access access;
        if (gets_result()) std::memcpy(sum_.to, values_->data(), values_->size());
        --sum_.comm->pending;
        return true;
    }

    Sum sum_;
    char fault_;
    int phase_ = 0;  // of what it waits for: nothing, the comparison of counts, the values
    // Where MPI finds them however often this is moved.
    std::shared_ptr<std::array<std::uint64_t, 4>> counts_ = std::make_shared<std::array<std::uint64_t, 4>>();
    std::shared_ptr<std::vector<std::byte>> values_ = std::make_shared<std::vector<std::byte>>();
    MPI_Request request_ = MPI_REQUEST_NULL;
};

bool usable(ncclComm_t comm) {
    return live().contains(comm) && !comm->aborted && !comm->finalized;
}

// All ranks of a communicator learn the numbers of the others in MPI_COMM_WORLD through the one that made the
// id.
std::vector<int> members(int root, int ranks, int rank, int tag) {
    std::vector<int> numbers(static_cast<std::size_t>(ranks));
    const std::array<int, 2> mine = {rank, world_rank()};
    if (world_rank() != root) {
        MPI_Send(mine.data(), 2, MPI_INT, root, tag, MPI_COMM_WORLD);
        MPI_Recv(numbers.data(), ranks, MPI_INT, root, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        return numbers;
    }
    numbers[static_cast<std::size_t>(rank)] = root;
    for (int i = 1; i < ranks; ++i) {
        std::array<int, 2> other{};
        MPI_Recv(other.data(), 2, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        numbers[static_cast<std::size_t>(other[0])] = other[1];
    }
    for (const int number : numbers)
        if (number != root) MPI_Send(numbers.data(), ranks, MPI_INT, number, tag, MPI_COMM_WORLD);
    return numbers;
}

// Two ranks of a host with the same GPU.
bool shares_device(const ncclComm& comm) {
    MPI_Comm host = MPI_COMM_NULL;
    MPI_Comm_split_type(comm.mpi, MPI_COMM_TYPE_SHARED, comm.rank, MPI_INFO_NULL, &host);
    int size = 0;
    MPI_Comm_size(host, &size);
    std::vector<int> devices(static_cast<std::size_t>(size));
    MPI_Allgather(&comm.device, 1, MPI_INT, devices.data(), 1, MPI_INT, host);
    MPI_Comm_free(&host);
    return std::set(devices.begin(), devices.end()).size() < devices.size();
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
    *version = 22809;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    static int number = 0;
    const std::array<int, 3> content = {0x1d1d1d1d, world_rank(), number++};
    *id = {};
    std::memcpy(id->internal, content.data(), sizeof content);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
    std::array<int, 3> content{};
    std::memcpy(content.data(), id.internal, sizeof content);
    if (comm == nullptr || config == nullptr || config->magic != 0xcafebeef ||
        config->size != sizeof *config || rank < 0 || rank >= ranks || content[0] != 0x1d1d1d1d)
        return ncclInvalidArgument;
    if (config->blocking != 0)
        die("ncclCommInitRankConfig: a blocking communicator cannot be left when a rank is lost");
    auto made = std::make_unique<ncclComm>();
    made->rank = rank;
    made->ranks = ranks;
    if (cudaGetDevice(&made->device) != cudaSuccess) return ncclUnhandledCudaError;
    const int tag = rendezvous_tag + content[2] % 1000;
    const std::vector<int> numbers = members(content[1], ranks, rank, tag);
    MPI_Group world = MPI_GROUP_NULL, part = MPI_GROUP_NULL;
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_incl(world, ranks, numbers.data(), &part);
    MPI_Comm_create_group(MPI_COMM_WORLD, part, tag, &made->mpi);
    MPI_Group_free(&part);
    MPI_Group_free(&world);
    if (shares_device(*made)) {
        made->state = ncclInvalidUsage;
        made->last_error = "Duplicate GPU detected";
    }
    made->still = in_progress_times;
    *comm = made.release();
    live().insert(*comm);
    return ncclInProgress;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    if (!usable(comm)) return ncclInvalidArgument;
    if (comm->still > 0) return ncclInvalidUsage;
    comm->finalized = true;
    comm->still = in_progress_times;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!live().contains(comm) || comm->aborted) return ncclInvalidArgument;
    if (!comm->finalized || comm->still > 0) return ncclInvalidUsage;
    if (comm->pending > 0) die("ncclCommDestroy: %d sums are still in streams", comm->pending);
    MPI_Comm_free(&comm->mpi);
    live().erase(comm);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (!live().contains(comm) || comm->aborted) return ncclInvalidArgument;
    if (group_depth > 0) die("ncclCommAbort in a group, with whose end it would begin");
    comm->aborted = true;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
    if (!live().contains(comm) || comm->aborted) return ncclInvalidArgument;
    *error = comm->still > 0 ? ncclInProgress : comm->state;
    if (comm->still > 0) --comm->still;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
    ++group_depth;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
    if (group_depth == 0) return ncclInvalidUsage;
    if (--group_depth > 0) return ncclSuccess;
    if (group.empty()) return ncclSuccess;
    for (const Sum& sum : std::exchange(group, {})) {
        if (cuda_on_cpu::enqueue_until(sum.stream, Running(sum)) != cudaSuccess)
            return ncclUnhandledCudaError;
        sum.comm->still = in_progress_times;
    }
    return ncclInProgress;
}

static ncclResult_t give(const Sum& sum, ncclRedOp_t operation) {
    const char* name = call_names[static_cast<std::size_t>(sum.call)];
    if (!usable(sum.comm) || sum.stream == nullptr) return ncclInvalidArgument;
    if (sum.comm->still > 0)
        die("%s: the communicator is still at the last call; ask ncclCommGetAsyncError", name);
    if (sum.comm->state != ncclSuccess) return sum.comm->state;
    if ((sum.type != ncclFloat && sum.type != ncclUint64) || operation != ncclSum || sum.count > INT_MAX)
        die("%s: type %d, operation %d, %zu elements: only sums of float and uint64 are used", name, sum.type,
            operation, sum.count);
    if (sum.call != Call::all_reduce && (sum.root < 0 || sum.root >= sum.comm->ranks))
        return ncclInvalidArgument;
    const std::size_t bytes = sum.bytes();
    if (!cuda_on_cpu::in_device_memory(sum.from, bytes) || !cuda_on_cpu::in_device_memory(sum.to, bytes))
        return ncclInvalidArgument;
    if (sum.from != sum.to && sum.from < static_cast<const char*>(sum.to) + bytes &&
        sum.to < static_cast<const char*>(sum.from) + bytes)
        return ncclInvalidArgument;
    int device = 0;
    cudaGetDevice(&device);
    if (device != sum.comm->device) return ncclInvalidUsage;
    ncclGroupStart();
    group.push_back(sum);
    return ncclGroupEnd();
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
    return give({Call::all_reduce, type, -1, comm, from, to, count, stream}, operation);
}

ncclResult_t ncclReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t operation, int root, ncclComm_t comm, cudaStream_t stream) {
    return give({Call::reduce, type, root, comm, from, to, count, stream}, operation);
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    return give({Call::broadcast, type, root, comm, from, to, count, stream}, ncclSum);
}

const char* ncclGetErrorString(ncclResult_t result) {
    static constexpr std::array<const char*, 8> words = {"no error",
                                                         "unhandled cuda error",
                                                         "unhandled system error",
                                                         "internal error",
                                                         "invalid argument",
                                                         "invalid usage",
                                                         "remote process exited or there was a network error",
                                                         "NCCL operation in progress"};
    return words.at(static_cast<std::size_t>(result));
}

const char* ncclGetLastError(ncclComm_t comm) {
    return live().contains(comm) ? comm->last_error.c_str() : "";
}
