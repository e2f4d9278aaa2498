#pragma once
// What a step moves and how long it takes, from the times of single SAEs on one host.

#include <functional>

#include "config/config.h"
#include "suite/machine.h"
#include "suite/suite.h"

namespace strata::suite {

// Bytes that a step of a job moves besides what each rank reads and writes of its own, all SAEs together.
struct Traffic {
    double shared = 0;  // of a host's memory: rows and codes that its ranks lay together for their gradients
    double sent = 0;    // by the busiest host to others, and received as much: sums over hosts, in a ring
};
// `rows` of a batch that the host has.
Traffic traffic_of(const Job& job, const Place& place, std::int64_t rows);

// Bytes of the files of one row, its target's with it.
double row_bytes(const data::Dataset& dataset);

// Pairs of a row that are active late in training: k, the L0 aimed at, or 64 where only a penalty is given.
double active_of(const SaeConfig& sae);

// Of a host, all cores that ranks use, and of its link to others.
struct Rates {
    // Seconds of a step of an SAE on so many rows of the host, all of them in one process.
    std::function<double(const Job& job, const SaeConfig& sae, std::int64_t rows)> sae_seconds;
    // Seconds of one core that reads and shuffles so many rows.
    std::function<double(const data::Dataset& dataset, std::int64_t rows)> read_seconds;
    double memory = 0;  // bytes a second
    double link = 0;    // bytes a second, either way
};

// Seconds of sae_seconds from nothing but rates: `product` operations a second of the encoder's product.
double sae_seconds(const Job& job, const SaeConfig& sae, std::int64_t rows, double product, double memory);

// Seconds of a step of all SAEs of a job. `cores`: of a host, that all its ranks use together; a group has
// its share of them, of memory and of the link.
double step_seconds(const Job& job, const Config& config, const Place& place, int cores, const Rates& rates);

}  // namespace strata::suite
