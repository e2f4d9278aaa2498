#pragma once
// TensorBoard's event files: records (TFRecord framing) of Event protobufs, as far as scalars need them.
//
// A record is the length of its data (uint64), the masked CRC-32C of those eight bytes, the data, and their
// masked CRC-32C, little-endian. The messages (tensorflow/core/util/event.proto and framework/summary.proto):
//   Event {double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
//          SessionLog session_log = 7}
//   Summary {repeated Value {string tag = 1; float simple_value = 2} value = 1}
//   SessionLog {SessionStatus status = 1}, START = 1

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace strata::tensorboard {

struct Scalar {
    std::string tag;
    float value = 0;
};

// CRC-32C (Castagnoli), the one of RFC 3720.
std::uint32_t crc32c(std::string_view bytes);

// What a file begins with: its version, and the start of a session at `step`. TensorBoard then drops what
// earlier files of the folder, in order of name, have of that step and later ones. `time`: seconds since
// 1970.
std::string start_of_file(double time, std::int64_t step);

// A record with the values of one step.
std::string record_of(double time, std::int64_t step, std::span<const Scalar> scalars);

}  // namespace strata::tensorboard
