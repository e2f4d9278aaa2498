#pragma once
// SAE kinds. A kind is a screen, a rule and a penalty; everything else of a step is shared. Adding one takes
// its file, its line in kinds.cpp and its test.

#include <cstdint>
#include <span>
#include <string_view>

#include "comm/communicator.h"
#include "config/config.h"
#include "device/device.h"

namespace strata::sae {

// What a rule may look at and what it remembers between batches.
struct Selecting {
    device::Device& device;
    Communicator& comm;
    const device::Tensors& parameters;
    const SaeConfig& config;
    std::int64_t rows = 0;        // of the global batch
    std::int64_t local_rows = 0;  // of this rank
    float& guess;                 // where the rule expects its threshold; speed only, never the result
    float& margin;                // how far below the last threshold the guess stands, relative; likewise
};

// What is applied to pre-activations z when an SAE is used, after training.
enum class Inference {
    row_top,    // the k largest positive z of a row
    threshold,  // z > threshold (JumpReLU)
};

struct Kind {
    std::string_view name;
    // Screen and training rule: leaves the main codes of the batch in the device. Returns the smallest value
    // that could have been selected (batch rules), or 0.
    float (*select)(const Selecting& s);
    Inference inference;
};

std::span<const Kind> kinds();

// The kind must exist (load_config has checked).
const Kind& kind_of(std::string_view name);

// Number of codes that a batch rule selects among `rows` rows: k * rows rounded to the nearest integer,
// halves up.
std::int64_t codes_of_batch(double k, std::int64_t rows);

// One per file.
extern const Kind topk;
extern const Kind batch_topk;

}  // namespace strata::sae
