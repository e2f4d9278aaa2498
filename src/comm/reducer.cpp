#include "comm/reducer.h"

namespace strata {

Reducer::Reducer(Communicator& comm, bool overlap) : comm_(comm) {
    if (overlap && comm.size() > 1) {
        own_ = comm.duplicate();
        helper_ = std::thread([this] { serve(); });
    }
}

Reducer::~Reducer() {
    if (!own_) return;
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
    }
    changed_.notify_all();
    helper_.join();
}

void Reducer::submit(std::span<const std::span<float>> buckets) {
    if (comm_.size() == 1) return;
    if (!own_) {
        for (const std::span<float> bucket : buckets) comm_.sum(bucket);
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        waiting_.insert(waiting_.end(), buckets.begin(), buckets.end());
        unfinished_ += buckets.size();
    }
    changed_.notify_all();
}

void Reducer::wait() {
    if (!own_) return;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return unfinished_ == 0; });
}

void Reducer::serve() {
    for (;;) {
        std::span<float> bucket;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
            if (waiting_.empty()) return;
            bucket = waiting_.front();
            waiting_.pop_front();
        }
        own_->sum(bucket);
        {
            const std::lock_guard lock(mutex_);
            --unfinished_;
        }
        changed_.notify_all();
    }
}

}  // namespace strata
