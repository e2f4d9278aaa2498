#pragma once
// What a run reports while it trains: metrics.jsonl, the log, and on a terminal one progress bar.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "eval/evaluate.h"
#include "train/step.h"

namespace strata::train {

// One logged step of one SAE, all ranks together.
struct Metrics {
    std::int64_t step = 0;    // of this dataset, from 1
    std::int64_t tokens = 0;  // rows trained on so far
    std::string sae;
    double loss = 0;  // reconstruction over all prefixes, auxiliary loss and penalty
    double penalty = 0, auxiliary = 0;
    std::int64_t resampled = 0;    // latents given a new start by this step
    std::optional<AtmReport> atm;  // where masks are trained with
    eval::Measures batch;
    double dead_fraction = 0;  // silent for dead_after_tokens
    double threshold = 0, lr = 0, grad_norm = 0, rows_per_second = 0;
    data::LeftOut left_out;  // skipped_rows and corrupt_rows, since the start
};

// Its line of metrics.jsonl.
nlohmann::ordered_json to_json(const Metrics& metrics);

// Cuts from OUTPUT/metrics.jsonl what a resumed run will write again: of each SAE the lines after the step
// that `last` has for it, all of an SAE that it has not. What is left of a line that was cut off goes too.
// The file is replaced as a whole.
void keep_lines(const std::filesystem::path& path, const std::map<std::string, std::int64_t>& last);

// OUTPUT/metrics.jsonl; only the coordinator has it.
class MetricsFile {
  public:
    explicit MetricsFile(const std::filesystem::path& path);
    // Whole lines, which are with the system afterwards.
    void append(const std::string& lines);
    // On the disk, should the host lose its power.
    void sync();

  private:
    std::filesystem::path path_;
    std::ofstream out_;
};

// A bar on standard error if that is a terminal, nothing otherwise.
class ProgressBar {
  public:
    ProgressBar(bool enabled, std::string title, std::int64_t steps);
    ~ProgressBar();
    void show(std::int64_t step, const Metrics& latest);
    void clear();  // before something else is printed

  private:
    bool shown_ = false;
    bool enabled_;
    std::string title_;
    std::int64_t steps_;
    std::int64_t first_ = -1;
    std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace strata::train
