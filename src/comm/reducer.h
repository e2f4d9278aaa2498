#pragma once
// Sums gradient buckets in host memory over all ranks, in the order they are submitted; what only a device
// can address is the affair of device_sums.h. With a core to spare, a helper thread does so on a communicator
// of its own while the next bucket is being computed: MPI's non-blocking collectives make no progress by
// themselves, a thread with the blocking call does. Without a spare core the submitter does it at once.
// Either way the buckets, and so the bits of the result, are the same.

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "comm/communicator.h"

namespace strata {

class Reducer {
  public:
    Reducer(Communicator& comm, bool overlap);
    ~Reducer();
    Reducer(const Reducer&) = delete;
    Reducer& operator=(const Reducer&) = delete;

    // One bucket, or several small ones at once. The memory must not be touched until wait() returns.
    void submit(std::span<float> bucket) { submit(std::span(&bucket, 1)); }
    void submit(std::span<const std::span<float>> buckets);

    // Returns when every submitted bucket holds the sum over ranks.
    void wait();

  private:
    void serve();

    Communicator& comm_;
    std::unique_ptr<Communicator> own_;  // the helper's; null without overlap
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::span<float>> waiting_;
    std::size_t unfinished_ = 0;
    bool ending_ = false;
    std::thread helper_;
};

}  // namespace strata
