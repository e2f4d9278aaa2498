#include "formats/tensorboard.h"

#include <bit>

static_assert(std::endian::native == std::endian::little, "the format is little endian");

namespace strata::tensorboard {
namespace {

enum Wire : unsigned { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

template <typename Number>
void put(std::string& to, Number value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_varint(std::string& to, std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) to.push_back(static_cast<char>(value | 0x80));
    to.push_back(static_cast<char>(value));
}

void put_tag(std::string& to, unsigned field, Wire wire) {
    put_varint(to, field << 3 | wire);
}

void put_bytes(std::string& to, unsigned field, std::string_view value) {
    put_tag(to, field, bytes);
    put_varint(to, value.size());
    to += value;
}

std::string event(double time, std::int64_t step) {
    std::string data;
    put_tag(data, 1, fixed64);
    put(data, time);
    put_tag(data, 2, varint);
    put_varint(data, static_cast<std::uint64_t>(step));
    return data;
}

// TFRecord's, so that the sum of bytes that hold sums is not a special case.
std::uint32_t masked(std::uint32_t crc) {
    return std::rotr(crc, 15) + 0xa282ead8U;
}

std::string record(std::string_view data) {
    std::string framed;
    put(framed, static_cast<std::uint64_t>(data.size()));
    put(framed, masked(crc32c(framed)));
    framed += data;
    put(framed, masked(crc32c(data)));
    return framed;
}

}  // namespace

// Bit by bit: a file has some hundred bytes for each logged step.
std::uint32_t crc32c(std::string_view bytes) {
    std::uint32_t crc = ~0U;
    for (const char byte : bytes) {
        crc ^= static_cast<unsigned char>(byte);
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
    }
    return ~crc;
}

std::string start_of_file(double time, std::int64_t step) {
    std::string version = event(time, 0);
    put_bytes(version, 3, "brain.Event:2");
    std::string session = event(time, step), log;
    put_tag(log, 1, varint);
    put_varint(log, 1);
    put_bytes(session, 7, log);
    return record(version) + record(session);
}

std::string record_of(double time, std::int64_t step, std::span<const Scalar> scalars) {
    std::string summary;
    for (const Scalar& scalar : scalars) {
        std::string value;
        put_bytes(value, 1, scalar.tag);
        put_tag(value, 2, fixed32);
        put(value, scalar.value);
        put_bytes(summary, 1, value);
    }
    std::string data = event(time, step);
    put_bytes(data, 5, summary);
    return record(data);
}

}  // namespace strata::tensorboard
