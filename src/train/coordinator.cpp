#include "train/coordinator.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "base/log.h"
#include "comm/agree.h"
#include "train/output.h"

namespace strata::train {
namespace {

using nlohmann::json;

void post(Communicator& mail, const json& message, int to) {
    const std::string text = message.dump();
    mail.post(std::as_bytes(std::span(text)), to);
}

json parse(const Message& message) {
    const auto* text = reinterpret_cast<const char*>(message.bytes.data());
    return json::parse(text, text + message.bytes.size());
}

// Between two looks for a message: a wait that costs no core.
void nap() {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

Coordinator::Coordinator(std::filesystem::path output, const std::vector<suite::Job>& jobs,
                         const std::set<std::string>& done, Journal journal, MetricsFile metrics)
    : output_(std::move(output)),
      jobs_(jobs),
      journal_(std::move(journal)),
      metrics_(std::move(metrics)),
      done_(done.size()) {
    for (const std::size_t i : suite::order_of(jobs))
        if (!done.contains(jobs[i].name)) waiting_.push_back(i);
    std::ranges::reverse(waiting_);
}

std::optional<std::size_t> Coordinator::next() {
    const std::lock_guard lock(mutex_);
    if (waiting_.empty() || stopping_) return std::nullopt;
    const std::size_t job = waiting_.back();
    waiting_.pop_back();
    return job;
}

void Coordinator::started(std::size_t job, int group, std::int64_t step) {
    const std::lock_guard lock(mutex_);
    journal_.start(jobs_[job].name, group, step);
}

void Coordinator::metrics(const std::string& lines) {
    const std::lock_guard lock(mutex_);
    metrics_.append(lines);
}

void Coordinator::settle() {
    const std::lock_guard lock(mutex_);
    metrics_.sync();
}

void Coordinator::done(std::size_t job, const json& entries) {
    const std::lock_guard lock(mutex_);
    add_to_summary(output_, entries);
    journal_.done(jobs_[job].name);
    ++done_;
    if (jobs_.size() > 1) log::info("{}: done, {} of {}", jobs_[job].name, done_, jobs_.size());
}

void Coordinator::stop() {
    const std::lock_guard lock(mutex_);
    if (!stopping_) journal_.stop();
    stopping_ = true;
}

bool Coordinator::stopping() {
    const std::lock_guard lock(mutex_);
    return stopping_;
}

bool Coordinator::finished() {
    const std::lock_guard lock(mutex_);
    return done_ == jobs_.size();
}

CoordinatorThread::CoordinatorThread(Coordinator* coordinator, Communicator& mail)
    : coordinator_(coordinator), mail_(mail) {
    if (coordinator_ != nullptr) thread_ = std::thread([this] { run(); });
}

CoordinatorThread::~CoordinatorThread() {
    ending_ = true;
    if (thread_.joinable()) thread_.join();
}

void CoordinatorThread::run() {
    std::set<int> leaders;  // that have asked for a job
    bool stop_told = false;
    while (!ending_) {
        try {
            while (const std::optional<Message> message = mail_.poll()) {
                const json m = parse(*message);
                const std::string what = m.at("what");
                leaders.insert(message->from);
                if (what == "next") {
                    const auto job = coordinator_->next();
                    post(mail_, {{"answer", job ? json(*job) : json()}}, message->from);
                } else if (what == "started") {
                    coordinator_->started(m.at("job"), m.at("group"), m.at("step"));
                } else if (what == "metrics") {
                    coordinator_->metrics(m.at("lines"));
                } else if (what == "done") {
                    coordinator_->done(m.at("job"), m.at("entries"));
                    post(mail_, {{"answer", json()}}, message->from);
                } else if (what == "settle") {
                    coordinator_->settle();
                    post(mail_, {{"answer", json()}}, message->from);
                } else if (what == "stop") {
                    coordinator_->stop();
                }
            }
            if (!stop_told && coordinator_->stopping()) {
                for (const int leader : leaders) post(mail_, {{"stop", true}}, leader);
                stop_told = true;
            }
        } catch (...) {
            mail_.abort(report(std::current_exception()));
        }
        nap();
    }
}

void CoordinatorLine::tell(const json& message) {
    post(mail_, message, 0);
}

json CoordinatorLine::ask(const json& message) {
    tell(message);
    while (true) {
        while (const std::optional<Message> come = mail_.poll()) {
            const json m = parse(*come);
            if (m.contains("answer")) return m.at("answer");
            stopping_ = true;
        }
        nap();
    }
}

std::optional<std::size_t> CoordinatorLine::next() {
    if (own_ != nullptr) return own_->next();
    const json job = ask({{"what", "next"}});
    return job.is_null() ? std::nullopt : std::optional(job.get<std::size_t>());
}

void CoordinatorLine::started(std::size_t job, std::int64_t step) {
    if (own_ != nullptr) return own_->started(job, group_, step);
    tell({{"what", "started"}, {"job", job}, {"group", group_}, {"step", step}});
}

void CoordinatorLine::metrics(const std::string& lines) {
    if (own_ != nullptr) return own_->metrics(lines);
    tell({{"what", "metrics"}, {"lines", lines}});
}

void CoordinatorLine::done(std::size_t job, const json& entries) {
    if (own_ != nullptr) return own_->done(job, entries);
    ask({{"what", "done"}, {"job", job}, {"entries", entries}});
}

void CoordinatorLine::stop() {
    if (own_ != nullptr) return own_->stop();
    tell({{"what", "stop"}});
}

bool CoordinatorLine::stopping() {
    if (own_ != nullptr) return own_->stopping();
    if (mail_.poll()) stopping_ = true;  // nothing else comes unasked
    return stopping_;
}

void CoordinatorLine::settle() {
    if (own_ != nullptr) return own_->settle();
    ask({{"what", "settle"}});
}

}  // namespace strata::train
