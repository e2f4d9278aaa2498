#pragma once
// Sums gradient buckets over all ranks, in the order they are submitted. Memory of a device that the host
// cannot read is the affair of a DeviceSums. Of host memory: with a core to spare, a helper
// thread does so on a communicator of its own while the next bucket is being computed: MPI's non-blocking
// collectives make no progress by themselves, a thread with the blocking call does. Without a spare core the
// submitter does it at once. Either way the buckets, and so the bits of the result, are the same.

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "comm/communicator.h"
#include "comm/device_sums.h"

namespace strata {

class Reducer {
  public:
    // `sums`: of device memory, over the ranks of `comm`; null: the buckets are host memory.
    Reducer(Communicator& comm, bool overlap, std::unique_ptr<DeviceSums> sums = nullptr);
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
    std::unique_ptr<DeviceSums> sums_;
    std::unique_ptr<Communicator> own_;  // the helper's; null without overlap
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::span<float>> waiting_;
    std::size_t unfinished_ = 0;
    bool ending_ = false;
    std::thread helper_;
};

}  // namespace strata
