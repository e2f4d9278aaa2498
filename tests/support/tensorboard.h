#pragma once
// Reads event files of TensorBoard back, by the definition of TFRecord and of the protobuf wire format.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "formats/tensorboard.h"

namespace strata::test {

struct Event {
    double time = 0;
    std::uint64_t step = 0;
    std::string version;
    std::uint64_t session = 0;  // status
    std::map<std::string, float> scalars;
};

template <typename Number>
Number number_at(const std::string& bytes, std::size_t at) {
    Number value{};
    EXPECT_LE(at + sizeof value, bytes.size());
    if (at + sizeof value <= bytes.size()) std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

// Calls field(number, wire type, value as bytes; of a varint its eight) for each field of a message.
template <typename Field>
void read_message(const std::string& bytes, const Field& field) {
    std::size_t at = 0;
    const auto varint = [&] {
        std::uint64_t value = 0;
        for (int shift = 0; at < bytes.size(); shift += 7) {
            const auto byte = static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[at++]));
            value |= (byte & 0x7f) << shift;
            if (byte < 0x80) break;
        }
        return value;
    };
    while (at < bytes.size()) {
        const std::uint64_t tag = varint();
        const std::uint64_t wire = tag & 7;
        std::string value(sizeof(std::uint64_t), '\0');
        if (wire == 0) {
            const std::uint64_t number = varint();
            std::memcpy(value.data(), &number, sizeof number);
        } else {
            const std::size_t size = wire == 1 ? 8 : wire == 5 ? 4 : varint();
            ASSERT_LE(at + size, bytes.size());
            value = bytes.substr(at, size);
            at += size;
        }
        field(tag >> 3, wire, value);
    }
}

inline Event read_event(const std::string& data) {
    Event event;
    read_message(data, [&](std::uint64_t number, std::uint64_t wire, const std::string& value) {
        if (number == 1 && wire == 1) {
            event.time = number_at<double>(value, 0);
        } else if (number == 2 && wire == 0) {
            event.step = number_at<std::uint64_t>(value, 0);
        } else if (number == 3 && wire == 2) {
            event.version = value;
        } else if (number == 5 && wire == 2) {
            read_message(value, [&](std::uint64_t n, std::uint64_t w, const std::string& of_summary) {
                EXPECT_EQ(n, 1);
                EXPECT_EQ(w, 2);
                std::string tag;
                float scalar = 0;
                read_message(of_summary, [&](std::uint64_t m, std::uint64_t, const std::string& v) {
                    if (m == 1) tag = v;
                    if (m == 2) scalar = number_at<float>(v, 0);
                });
                EXPECT_TRUE(event.scalars.emplace(tag, scalar).second) << tag;
            });
        } else if (number == 7 && wire == 2) {
            read_message(value, [&](std::uint64_t n, std::uint64_t, const std::string& v) {
                if (n == 1) event.session = number_at<std::uint64_t>(v, 0);
            });
        } else {
            ADD_FAILURE() << "field " << number << " of wire type " << wire;
        }
    });
    return event;
}

inline std::vector<Event> read_events(const std::string& bytes) {
    const auto masked = [](const std::string& of) {
        const std::uint32_t crc = tensorboard::crc32c(of);
        return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
    };
    std::vector<Event> events;
    std::size_t at = 0;
    while (at < bytes.size()) {
        const auto size = number_at<std::uint64_t>(bytes, at);
        EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 8), masked(bytes.substr(at, 8)));
        if (size > bytes.size() - at - 16) {
            ADD_FAILURE() << "a record of " << size << " bytes at " << at;
            break;
        }
        const std::string data = bytes.substr(at + 12, size);
        EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 12 + size), masked(data));
        events.push_back(read_event(data));
        at += 16 + size;
    }
    return events;
}

}  // namespace strata::test
