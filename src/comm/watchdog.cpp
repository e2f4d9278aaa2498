#include "comm/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/phase.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point then) {
    return std::chrono::duration<double>(Clock::now() - then).count();
}

// The last sign of life of a rank.
struct Sign {
    Clock::time_point at = Clock::now();
    std::string who;  // "node7, process 1234", and what it was doing
};

std::string own_sign() {
    std::string host(256, '\0');
    ::gethostname(host.data(), host.size() - 1);
    return fmt::format("{}, process {}, in {}", host.c_str(), ::getpid(), present_phase());
}

}  // namespace

Watchdog::Watchdog(Communicator& comm, double limit) : limit_(limit), errors_(std::uncaught_exceptions()) {
    if (limit <= 0 || comm.size() == 1) return;
    pulse_ = comm.duplicate();
    thread_ = std::thread([this] { run(); });
}

Watchdog::~Watchdog() {
    if (!pulse_) return;
    if (std::uncaught_exceptions() == errors_) pulse_->long_barrier();
    ending_ = true;
    thread_.join();
}

void Watchdog::run() {
    const int ranks = pulse_->size(), rank = pulse_->rank();
    const double interval = std::min(1.0, limit_ / 10);
    const double patience = rank == 0 ? limit_ : 1.25 * limit_;
    // Whom this rank hears: rank 0 all others, these rank 0.
    const int first = rank == 0 ? 1 : 0, last = rank == 0 ? ranks : 1;
    std::vector<Sign> signs(static_cast<std::size_t>(last));
    Clock::time_point sent = Clock::now() - std::chrono::hours(1), looked = Clock::now();
    while (!ending_) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        if (seconds_since(looked) > limit_ / 2)  // it was this rank that slept
            for (Sign& sign : signs) sign.at = Clock::now();
        looked = Clock::now();
        if (seconds_since(sent) >= interval) {
            const std::string sign = own_sign();
            for (int to = first; to < last; ++to) pulse_->post(std::as_bytes(std::span(sign)), to);
            sent = Clock::now();
        }
        while (const std::optional<Message> message = pulse_->poll()) {
            const auto* text = reinterpret_cast<const char*>(message->bytes.data());
            signs[static_cast<std::size_t>(message->from)] = {Clock::now(),
                                                              std::string(text, message->bytes.size())};
        }
        for (int r = first; r < last; ++r) {
            const Sign& sign = signs[static_cast<std::size_t>(r)];
            if (seconds_since(sign.at) < patience) continue;
            log::error(
                "rank {} has not been heard of for {:.0f} s ({}): it was stopped, its host or the link to it "
                "is lost; all ranks end, continue with --resume (run.watchdog: {:g})",
                r, seconds_since(sign.at), sign.who.empty() ? "nor before" : "last seen: " + sign.who,
                limit_);
            pulse_->abort(exit_failed);
        }
    }
}

}  // namespace strata
