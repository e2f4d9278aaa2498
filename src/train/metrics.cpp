#include "train/metrics.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace strata::train {

nlohmann::ordered_json to_json(const Metrics& m) {
    nlohmann::ordered_json line = {{"step", m.step},
                                   {"tokens", m.tokens},
                                   {"sae", m.sae},
                                   {"loss", m.loss},
                                   {"reconstruction", m.batch.reconstruction},
                                   {"fvu", m.batch.fvu},
                                   {"l0", m.batch.l0},
                                   {"l1", m.batch.l1},
                                   {"cosine", m.batch.cosine},
                                   {"dead_fraction", m.dead_fraction},
                                   {"dense_fraction", m.batch.dense_fraction},
                                   {"threshold", m.threshold},
                                   {"lr", m.lr},
                                   {"grad_norm", m.grad_norm},
                                   {"rows_per_second", m.rows_per_second},
                                   {"skipped_rows", m.left_out.skipped},
                                   {"corrupt_rows", m.left_out.corrupt}};
    if (m.penalty != 0) line["penalty"] = m.penalty;
    if (m.auxiliary != 0) line["auxiliary"] = m.auxiliary;
    if (m.resampled > 0) line["resampled"] = m.resampled;
    if (m.atm) {
        line["atm_threshold"] = m.atm->threshold;
        line["atm_mean_probability"] = m.atm->mean_probability;
        line["atm_masked_share"] = m.atm->masked_share;
        line["atm_above"] = m.atm->above_share;
    }
    return line;
}

void keep_lines(const std::filesystem::path& path, const std::map<std::string, std::int64_t>& last) {
    if (!std::filesystem::exists(path)) return;
    std::istringstream lines(read_file(path));
    std::string kept;
    for (std::string text; std::getline(lines, text);) {
        if (lines.eof()) break;  // without its end
        const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
        if (line.is_discarded() || !line.contains("sae") || !line.contains("step"))
            fail("{}: not a line of metrics: {}; it has been changed since", path.string(), text);
        const auto found = last.find(line["sae"]);
        if (found != last.end() && line["step"].get<std::int64_t>() <= found->second) kept += text + '\n';
    }
    write_file(path, kept);
}

MetricsFile::MetricsFile(const std::filesystem::path& path) : path_(path) {
    out_.open(path, std::ios::binary | std::ios::app);
    if (!out_) fail("{}: cannot open for writing: {}", path.string(), std::strerror(errno));
}

void MetricsFile::append(const std::string& lines) {
    out_ << lines;
    out_.flush();
    if (!out_) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
}

void MetricsFile::sync() {
    const int file = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    const bool synced = file >= 0 && ::fsync(file) == 0;
    const int why = errno;
    if (file >= 0) ::close(file);
    if (!synced) fail("{}: cannot sync: {}", path_.string(), std::strerror(why));
}

ProgressBar::ProgressBar(bool enabled, std::string title, std::int64_t steps)
    : enabled_(enabled && isatty(STDERR_FILENO) != 0), title_(std::move(title)), steps_(steps) {}

ProgressBar::~ProgressBar() {
    clear();
}

void ProgressBar::clear() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
}

void ProgressBar::show(std::int64_t step, const Metrics& latest) {
    const auto now = std::chrono::steady_clock::now();
    if (first_ < 0) {
        first_ = step;
        start_ = now;
    }
    if (!enabled_ || (step < steps_ && now - last_ < std::chrono::milliseconds(100))) return;
    last_ = now;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const auto left = step > first_ ? static_cast<std::int64_t>(elapsed * static_cast<double>(steps_ - step) /
                                                                static_cast<double>(step - first_))
                                    : 0;
    winsize window{};
    const int columns =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
    const auto filled = static_cast<std::size_t>(20 * step / std::max<std::int64_t>(steps_, 1));
    std::string line = fmt::format(
        "{} [{}{}] {}/{}  {:.0f} rows/s  loss {:.4f}  fvu {:.4f}  L0 {:.1f}  dead {:.1f}%  {}:{:02}:{:02} "
        "left",
        title_, std::string(filled, '='), std::string(20 - filled, ' '), step, steps_, latest.rows_per_second,
        latest.loss, latest.batch.fvu, latest.batch.l0, 100 * latest.dead_fraction, left / 3600,
        left / 60 % 60, left % 60);
    if (std::ssize(line) >= columns) line.resize(static_cast<std::size_t>(columns - 1));
    std::fprintf(stderr, "\r%s\033[K", line.c_str());
    std::fflush(stderr);
    shown_ = true;
}

}  // namespace strata::train
