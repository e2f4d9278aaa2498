// Training does not depend on the product that finds the pairs: the same bits with the float32 one and with
// the integers of every instruction set and both bounds, for every kind, with awkward data, at any number of
// ranks.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "support/divisions.h"
#include "support/kinds.h"

namespace strata {
namespace {

using test::KindCase;
using test::Training;

struct Encoder {
    device::CpuOptions cpu;
    const device::ScreenKernels* screen;
};

std::vector<Encoder> screened() {
    static const std::vector<device::ScreenKernels> sets = device::all_screen_kernels();
    std::vector<Encoder> all;
    for (const device::ScreenKernels& set : sets)
        for (const char* bound : {"dithered", "certain"}) all.push_back({{"screened", bound}, &set});
    return all;
}

std::string name_of(const Encoder& e) {
    return fmt::format("{}, {}", e.screen->target, e.cpu.screen_bound);
}

class Encoders : public testing::TestWithParam<KindCase> {
  protected:
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
};

TEST_P(Encoders, TrainAlike) {
    const KindCase& c = GetParam();
    constexpr std::int64_t rows = KindCase::rows;
    const std::int64_t first = test::first_row(rows, comm->rank(), comm->size(), false);
    const std::int64_t last = test::first_row(rows, comm->rank() + 1, comm->size(), false);
    const auto state_after = [&](const Encoder& encoder) {
        Training::Options options = c.options(2);
        options.cpu = encoder.cpu;
        options.screen = encoder.screen;
        Training training(*comm, test::start_of(c), c.config, rows, KindCase::mean_square, options);
        for (int t = 0; t < 6; ++t) {
            training.sae.density = 0;
            const test::Rows batch = test::rows_of(c, t, rows);
            training.step(batch.x, batch.target, first, last, test::optimizer_at(t), t, KindCase::lr);
        }
        return training.whole_state_bits();
    };
    const std::uint64_t expected = state_after({{"float32", "dithered"}, nullptr});
    for (const Encoder& encoder : screened()) EXPECT_EQ(state_after(encoder), expected) << name_of(encoder);
}

INSTANTIATE_TEST_SUITE_P(With, Encoders, testing::ValuesIn(test::kind_cases()), test::name_of_case);

struct AwkwardCase {
    const char* kind;
    test::Awkward data;
};

void PrintTo(const AwkwardCase& c, std::ostream* out) {
    *out << c.kind << ", " << test::name_of(c.data);
}

class AwkwardEncoders : public testing::TestWithParam<AwkwardCase> {
  protected:
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
};

TEST_P(AwkwardEncoders, TrainAlike) {
    constexpr std::size_t rows = 90, n = 70, width = 500;
    const std::int64_t first = test::first_row(rows, comm->rank(), comm->size(), false);
    const std::int64_t last = test::first_row(rows, comm->rank() + 1, comm->size(), false);
    const test::Problem problem = test::make_problem(rows, n, width, GetParam().data);
    SaeConfig config = test::make_config(GetParam().kind, width, 7);
    config.bandwidth = 0.01;
    config.l0_target = 7;
    double square = 0;
    for (const float v : problem.x) square += static_cast<double>(v) * v / rows;
    const auto state_after = [&](const Encoder& encoder) {
        Training::Options options{.threads = 2, .steps = 20};
        options.cpu = encoder.cpu;
        options.screen = encoder.screen;
        Training training(*comm, problem.sae, config, rows, square, options);
        for (int t = 0; t < 8; ++t) {
            training.sae.density = 0;
            training.step(test::make_batch(rows, n, t, GetParam().data), first, last, {}, t, 1e-3);
        }
        return training.whole_state_bits();
    };
    const std::uint64_t expected = state_after({{"float32", "dithered"}, nullptr});
    for (const Encoder& encoder : screened()) EXPECT_EQ(state_after(encoder), expected) << name_of(encoder);
}

std::vector<AwkwardCase> awkward_cases() {
    std::vector<AwkwardCase> all;
    for (const char* kind : {"topk", "batch_topk", "jumprelu"})
        for (int i = 0; i <= static_cast<int>(test::Awkward::one_row_many_times); ++i)
            all.push_back({kind, static_cast<test::Awkward>(i)});
    return all;
}

INSTANTIATE_TEST_SUITE_P(Of, AwkwardEncoders, testing::ValuesIn(awkward_cases()));

// SAEs of one stream share the integers of a batch: as if each had made them, and not those of another batch
// in the same memory.
TEST(Encoder, IntegersOfABatchServeAllItsSaes) {
    constexpr std::size_t rows = 60, n = 40, width = 300;
    const test::Problem a = test::make_problem(rows, n, width), b = test::make_problem(rows, n, width, {}, 7);
    const auto candidates = [&](const Encoder& encoder, bool numbered) {
        device::CpuDevice device(2, encoder.cpu, encoder.screen);
        device.prepare(rows, n, width, 1000);
        const device::Tensors first = test::put(a.sae, device), second = test::put(b.sae, device);
        std::vector<float> x = a.x;
        std::vector<std::vector<test::Pair>> found;
        for (std::uint64_t batch = 1; batch <= 2; ++batch) {
            for (const device::Tensors* sae : {&first, &second}) {
                device.center({.x = x, .count = rows, .number = numbered ? batch : 0}, *sae);
                const float limit = 0.2F;
                EXPECT_TRUE(device.screen_above(*sae, {&limit, 1}, 0));
                found.push_back(test::candidates_in(device));
            }
            x = b.x;
        }
        return found;
    };
    const auto expected = candidates({{"float32", "dithered"}, nullptr}, false);
    EXPECT_NE(expected[0], expected[2]);
    for (const Encoder& encoder : screened())
        for (const bool numbered : {false, true})
            EXPECT_EQ(candidates(encoder, numbered), expected) << name_of(encoder);
}

}  // namespace
}  // namespace strata
