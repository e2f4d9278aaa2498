#pragma once
// What `strata plan` says: docs/plan.md, "JSON", and the same as a table.

#include <nlohmann/json.hpp>

#include "config/config.h"
#include "suite/gpu_memory.h"
#include "suite/memory.h"
#include "suite/predict.h"

namespace strata::cli {

inline constexpr double gib = 1024.0 * 1024 * 1024;

// A job and where it stands.
struct PlannedJob {
    const suite::Job& job;
    suite::Turn turn;
    suite::Place place;
    suite::RankMemory memory;  // of its first rank
    suite::RankMemory gpu;     // of a rank's GPU
    double step_seconds = 0;
};

// An element of "jobs".
nlohmann::ordered_json job_json(const PlannedJob& one, const Config& config);

// The whole object, on standard output.
void print_table(const nlohmann::ordered_json& plan);

}  // namespace strata::cli
