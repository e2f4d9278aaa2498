#include "comm/mpi.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <list>
#include <string>
#include <thread>

#include "base/error.h"
#include "comm/shared_memory.h"

namespace strata {
namespace {

// Open MPI's all-reduce of one large buffer allocates scratch of its size, whose pages then fault; pieces of
// a few MiB stay in memory that is kept. The size is part of the result: at three ranks other pieces give
// other roundings.
constexpr std::size_t piece_bytes = std::size_t{1} << 20;

// Over TCP Open MPI first asks before it sends more than 64 KiB, and the answer waits behind what the other
// sends: over 100 Mbit/s a sum took half as long again. Whatever the environment says of it counts.
void send_pieces_at_once() {
    const std::string limit = std::to_string(piece_bytes + piece_bytes / 16);
    for (const char* name : {"OMPI_MCA_btl_tcp_eager_limit", "OMPI_MCA_btl_tcp_rndv_eager_limit"})
        ::setenv(name, limit.c_str(), 0);
}

template <typename T>
MPI_Datatype type_of();
template <>
MPI_Datatype type_of<float>() {
    return MPI_FLOAT;
}
template <>
MPI_Datatype type_of<double>() {
    return MPI_DOUBLE;
}
template <>
MPI_Datatype type_of<std::uint64_t>() {
    return MPI_UINT64_T;
}
template <>
MPI_Datatype type_of<std::uint32_t>() {
    return MPI_UINT32_T;
}

class MpiCommunicator final : public Communicator {
  public:
    MpiCommunicator(MPI_Comm comm, bool owned) : comm_(comm), owned_(owned) {
        MPI_Comm_rank(comm_, &rank_);
        MPI_Comm_size(comm_, &size_);
        MPI_Comm node = node_comm();
        MPI_Comm_size(node, &ranks_on_node_);
        MPI_Comm_free(&node);
    }
    ~MpiCommunicator() override {
        if (owned_) MPI_Comm_free(&comm_);
    }

    int rank() const override { return rank_; }
    int size() const override { return size_; }
    int ranks_on_node() const override { return ranks_on_node_; }

    void sum(std::span<float> values) override { reduce(values, MPI_SUM); }
    void sum(std::span<double> values) override { reduce(values, MPI_SUM); }
    void sum(std::span<std::uint64_t> values) override { reduce(values, MPI_SUM); }
    void max(std::span<double> values) override { reduce(values, MPI_MAX); }
    void any(std::span<std::uint32_t> bits) override { reduce(bits, MPI_BOR); }

    void gather(std::span<const std::uint64_t> mine, std::span<std::uint64_t> all) override {
        STRATA_ASSERT(all.size() == mine.size() * static_cast<std::size_t>(size_));
        const int count = static_cast<int>(mine.size());
        MPI_Allgather(mine.data(), count, MPI_UINT64_T, all.data(), count, MPI_UINT64_T, comm_);
    }
    void broadcast(std::span<std::byte> bytes, int root) override {
        constexpr std::size_t most = std::size_t{1} << 30;  // counts of MPI are ints
        for (std::size_t at = 0; at < bytes.size(); at += most) {
            const std::span<std::byte> piece = bytes.subspan(at, std::min(most, bytes.size() - at));
            MPI_Bcast(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, root, comm_);
        }
    }
    void barrier() override { MPI_Barrier(comm_); }
    void long_barrier() override {
        MPI_Request request = MPI_REQUEST_NULL;
        MPI_Ibarrier(comm_, &request);
        int done = 0;
        while (MPI_Test(&request, &done, MPI_STATUS_IGNORE), done == 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    void post(std::span<const std::byte> bytes, int to) override {
        drop_sent();
        Sent& sent = sent_.emplace_back(std::vector<std::byte>(bytes.begin(), bytes.end()));
        MPI_Isend(sent.bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, to, 0, comm_, &sent.request);
    }
    std::optional<Message> poll() override {
        drop_sent();
        int here = 0, size = 0;
        MPI_Status status;
        MPI_Iprobe(MPI_ANY_SOURCE, 0, comm_, &here, &status);
        if (here == 0) return std::nullopt;
        MPI_Get_count(&status, MPI_BYTE, &size);
        Message message{status.MPI_SOURCE, std::vector<std::byte>(static_cast<std::size_t>(size))};
        MPI_Recv(message.bytes.data(), size, MPI_BYTE, message.from, 0, comm_, MPI_STATUS_IGNORE);
        return message;
    }
    std::unique_ptr<Communicator> duplicate() override {
        MPI_Comm copy = MPI_COMM_NULL;
        MPI_Comm_dup(comm_, &copy);
        return std::make_unique<MpiCommunicator>(copy, true);
    }
    std::unique_ptr<Communicator> split(int color) override {
        MPI_Comm part = MPI_COMM_NULL;
        MPI_Comm_split(comm_, color, rank_, &part);
        return std::make_unique<MpiCommunicator>(part, true);
    }
    std::unique_ptr<Communicator> on_node() override {
        return std::make_unique<MpiCommunicator>(node_comm(), true);
    }
    std::optional<SharedMemory> share(std::size_t bytes) override { return share_memory(*this, bytes); }
    [[noreturn]] void abort(int status) override {
        ::alarm(10);  // MPI_Abort may wait for a launcher that can no longer be reached
        MPI_Abort(comm_, status);
        std::_Exit(status);
    }

  private:
    MPI_Comm node_comm() const {
        MPI_Comm node = MPI_COMM_NULL;
        MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node);
        return node;
    }

    template <typename T>
    void reduce(std::span<T> values, MPI_Op operation) {
        for (std::size_t at = 0; at < values.size(); at += piece_bytes / sizeof(T)) {
            const std::size_t count = std::min(piece_bytes / sizeof(T), values.size() - at);
            MPI_Allreduce(MPI_IN_PLACE, values.data() + at, static_cast<int>(count), type_of<T>(), operation,
                          comm_);
        }
    }

    // A message on its way, and the memory that it leaves from.
    struct Sent {
        std::vector<std::byte> bytes;
        MPI_Request request = MPI_REQUEST_NULL;
    };
    void drop_sent() {
        std::erase_if(sent_, [](Sent& sent) {
            int done = 0;
            MPI_Test(&sent.request, &done, MPI_STATUS_IGNORE);
            return done != 0;
        });
    }

    MPI_Comm comm_;
    std::list<Sent> sent_;
    bool owned_;
    int rank_ = 0;
    int size_ = 1;
    int ranks_on_node_ = 1;
};

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) {
    int running = 0;
    int provided = 0;
    MPI_Initialized(&running);
    started_here_ = running == 0;
    if (started_here_) {
        send_pieces_at_once();
        MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    } else {
        MPI_Query_thread(&provided);
    }
    if (provided < MPI_THREAD_MULTIPLE)
        fail("this MPI offers thread level {}, MPI_THREAD_MULTIPLE ({}) is needed", provided,
             MPI_THREAD_MULTIPLE);
}

MpiSession::~MpiSession() {
    int ended = 0;
    MPI_Finalized(&ended);
    if (started_here_ && !ended) MPI_Finalize();
}

std::unique_ptr<Communicator> make_mpi_communicator() {
    return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, false);
}

}  // namespace strata
