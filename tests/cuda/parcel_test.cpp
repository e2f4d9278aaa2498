// Batches on their way to the GPU: the bits that the host would make of them, whenever copies come.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "data/convert.h"
#include "data/files.h"
#include "data/stream.h"
#include "support/parcels.h"
#include "support/test_device.h"

namespace strata {
namespace {

using test::n;

// Every finite number of two bytes, or as many floats.
std::vector<std::byte> all_numbers(Element type) {
    std::vector<std::byte> bytes;
    for (std::uint32_t i = 0; i < (1U << 16); ++i) {
        const std::uint32_t number = type == Element::float32 ? i << 16 | (i * 2654435761U) >> 16 : i;
        float value = 0;
        const auto* from = reinterpret_cast<const std::byte*>(&number);
        data::to_float(type, {from, size_of(type)}, {&value, 1}, 1);
        if (std::isfinite(value)) bytes.insert(bytes.end(), from, from + size_of(type));
    }
    bytes.resize(bytes.size() / (n * size_of(type)) * n * size_of(type));
    return bytes;
}

void expect_rows(device::Device& device, std::span<const float> expected) {
    std::vector<float> row(n);
    for (std::size_t b = 0; b < expected.size() / n; ++b) {
        device.centered_row(static_cast<std::int64_t>(b), row);
        ASSERT_EQ(std::memcmp(row.data(), expected.data() + b * n, n * sizeof(float)), 0) << b;
    }
}

struct Parcels : testing::Test {
    void TearDown() override { test::set_order(0); }
};

TEST_F(Parcels, ArriveWithTheBitsThatTheHostMakes) {
    for (const Element type : {Element::float16, Element::bfloat16, Element::float32}) {
        SCOPED_TRACE(name_of(type));
        const std::vector<std::byte> bytes = all_numbers(type);
        const auto rows = static_cast<std::int64_t>(bytes.size() / (n * size_of(type)));
        const auto device = test::make_parcel_device(0, rows);
        const device::Tensors sae = test::plain_sae(*device);
        const auto parcel = device->make_parcel({rows, n, type, {}});
        for (const float scale : {1.0F, 0.3721F}) {
            std::vector<float> expected(static_cast<std::size_t>(rows * n));
            data::to_float(type, bytes, expected, scale);
            parcel->wait();
            std::ranges::copy(bytes, parcel->x().begin());
            parcel->send(rows, scale);
            device->center({.x = {}, .count = rows, .parcel = parcel.get()}, sae);
            expect_rows(*device, expected);
        }
    }
}

// Targets come beside x, of a type of their own; of a batch of one row their sums are they themselves.
TEST_F(Parcels, BringTheTargets) {
    const auto device = test::make_parcel_device(0, 4);
    const device::Tensors sae = test::plain_sae(*device);
    const auto parcel = device->make_parcel({4, n, Element::float32, Element::bfloat16});
    std::vector<float> x(n, 1.5F), y(n);
    for (std::size_t c = 0; c < n; ++c) y[c] = static_cast<float>(c) - 7.5F;
    std::ranges::copy(std::as_bytes(std::span(x)), parcel->x().begin());
    data::from_float(Element::bfloat16, y, parcel->target().first(2 * n));
    parcel->send(1, 0.3F);
    device->center({.x = {}, .count = 1, .parcel = parcel.get()}, sae);
    expect_rows(*device, std::vector<float>(n, 1.5F * 0.3F));
    std::vector<double> sums(n);
    device->output_columns(sae, sums);
    for (std::size_t c = 0; c < n; ++c) EXPECT_EQ(sums[c], y[c] * 0.3F);
}

// The host writes the next batch while the GPU may not have begun with the last; copies come as early as they
// may, or late.
TEST_F(Parcels, TakeOneBatchAfterAnother) {
    int gpus = 0;
    ASSERT_EQ(cudaGetDeviceCount(&gpus), cudaSuccess);
    for (const std::uint64_t order : {0, 1, 2, 3}) {
        test::set_order(order);
        const auto device = test::make_parcel_device(gpus - 1, 3);
        const device::Tensors sae = test::plain_sae(*device);
        const auto room = device->make_parcel({3, n, Element::float32, {}});
        const auto send = [&](float value) {
            std::jthread([&] {  // as the stream's, whose current GPU is the first
                room->wait();
                const std::vector<float> rows(3 * n, value);
                std::ranges::copy(std::as_bytes(std::span(rows)), room->x().begin());
                room->send(3, 1);
            });
        };
        send(1);
        for (int t = 1; t < 5; ++t) {
            device->center({.x = {}, .count = 3, .parcel = room.get()}, sae);
            send(static_cast<float>(t + 1));
            expect_rows(*device, std::vector<float>(3 * n, static_cast<float>(t)));
        }
    }
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
}

// The SAEs of a stream take a batch in turn: what has come for the first serves the others.
TEST_F(Parcels, AreTakenOnceForAllSaes) {
    const auto device = test::make_parcel_device(0, 1);
    const device::Tensors sae = test::plain_sae(*device);
    const auto parcel = device->make_parcel({1, n, Element::float32, {}});
    const auto send = [&](float value) {
        parcel->wait();
        const std::vector<float> row(n, value);
        std::ranges::copy(std::as_bytes(std::span(row)), parcel->x().begin());
        parcel->send(1, 1);
    };
    const auto expect = [&](std::uint64_t number, float value) {
        device->center({.x = {}, .count = 1, .number = number, .parcel = parcel.get()}, sae);
        expect_rows(*device, std::vector<float>(n, value));
    };
    send(1);
    expect(5, 1);
    send(2);
    expect(5, 1);
    expect(6, 2);
}

TEST_F(Parcels, MayGoWithACopyUnderWay) {
    const auto device = test::make_parcel_device(0, 1);
    const auto parcel = device->make_parcel({1, n, Element::float32, {}});
    std::ranges::fill(parcel->x(), std::byte{1});
    parcel->send(1, 1);
}

// A stream's batches, sent ahead by its own thread, are those that it gives to the host; also where the
// device holds some of their rows at a time, and comes back to them for every SAE.
TEST_F(Parcels, OfAStreamHoldItsBatches) {
    const data::Folder folder;
    data::write_numbered(folder / "a.h5", "r/0", Element::float16, 0, 301, n);
    data::write_numbered(folder / "b.h5", "r/0", Element::bfloat16, 301, 99, n);
    data::write_numbered(folder / "c.h5", "s/0", Element::float16, 0, 500, n);
    // As float32, since types differ; as float16.
    for (const auto& [name, files] : {std::pair{"r/0", "[ab].h5"}, std::pair{"s/0", "c.h5"}})
        for (const auto& [order, held] : {std::pair(0, 0), std::pair(1, 0), std::pair(1, 12)}) {
            test::set_order(static_cast<std::uint64_t>(order));
            const data::Dataset dataset = data::find_datasets({folder / files}, {name}).front();
            const DataConfig config = data::config_of(8, 128, 10);
            data::InputStatistics statistics;
            statistics.scale = 0.37;
            const auto device = test::make_parcel_device(0, 40, held);
            const device::Tensors sae = test::plain_sae(*device);
            data::Stream host(dataset, config, statistics, 40, 7, 0, 1);
            data::Stream sent(dataset, config, statistics, 40, 7, 0, 1, {}, device.get());
            for (int step = 0; step < 25; ++step) {
                if (step == 12) {
                    const std::vector<data::LaneCursor> cursors = host.cursors();
                    host.rewind(cursors);
                    sent.rewind(cursors);
                }
                const data::Batch expected = host.next(), batch = sent.next();
                EXPECT_TRUE(batch.x.empty());
                ASSERT_EQ(batch.rows, expected.rows);
                for (int i = 0; i < (held == 0 ? 1 : 2); ++i) {
                    device->center(data::rows_of(batch), sae);
                    expect_rows(*device, expected.x);
                }
            }
        }
}

}  // namespace
}  // namespace strata
