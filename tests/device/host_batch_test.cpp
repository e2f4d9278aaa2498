// The batch of a host, of ranks whose tiles have another width than those of the rows laid together.

#include "device/cpu/host_batch.h"

#include <gtest/gtest.h>

#include "comm/self.h"

namespace strata::device {
namespace {

constexpr std::int64_t n = 70;

std::vector<float> row_of(std::int64_t b) {
    std::vector<float> row(n);
    for (std::int64_t c = 0; c < n; ++c)
        row[static_cast<std::size_t>(c)] = static_cast<float>(1000 * (b % 500) + c);
    return row;
}

// As in a range of the rows of a batch: in steps of a few tiles of 16 columns where all together have 64.
TEST(HostBatch, LaysRowsTogetherWhateverTheWidthOfTiles) {
    const std::unique_ptr<Communicator> self = make_self_communicator();
    for (const std::int64_t rows : {std::int64_t{100}, std::int64_t{20000}}) {
        Tiles centered, residual;
        centered.reset(rows, n);
        residual.reset(rows, n);
        ASSERT_EQ(centered.width, rows == 100 ? 64 : 16);
        for (std::int64_t b = 0; b < rows; ++b) {
            centered.store(b, row_of(b).data());
            residual.store(b, row_of(b + 7).data());
        }
        ByLatent codes;
        codes.begin = {0, 1, 3, 3};
        codes.grow(3);
        const std::vector<std::uint32_t> code_rows = {40, 24, 59};
        for (std::size_t e = 0; e < 3; ++e) {
            codes.row[e] = code_rows[e];
            codes.value[e] = static_cast<float>(e) + 0.5F;
            codes.gradient[e] = -static_cast<float>(e);
        }

        HostBatch host;
        const std::vector<RankCodes> sets = {{&codes, std::span(&residual, 1)}};
        for (const Slice latents : {Slice{0, 3}, Slice{1, 2}}) {
            const HostRows found = gather_batch(host, *self, centered, sets, {24, 60}, latents, true, 2);
            EXPECT_FALSE(found.first);
            EXPECT_TRUE(found.last);
            EXPECT_EQ(host.centered.rows, 36);
            std::vector<float> row(n);
            for (std::int64_t b = 0; b < 36; ++b) {
                host.centered.load(b, row.data());
                EXPECT_EQ(row, row_of(24 + b));
                host.sets[0].residual.front().load(b, row.data());
                EXPECT_EQ(row, row_of(24 + b + 7));
            }
            const ByLatent& out = host.sets[0].codes;
            const std::uint32_t before = latents.first == 0 ? 1 : 0;
            EXPECT_EQ(out.begin, (std::vector<std::uint32_t>{0, before, before + 2, before + 2}));
            for (std::uint32_t e = 0; e < out.size(); ++e) {
                EXPECT_EQ(out.row[e], code_rows[e + 1 - before] - 24);
                EXPECT_EQ(out.value[e], static_cast<float>(e + 1 - before) + 0.5F);
                EXPECT_EQ(out.gradient[e], -static_cast<float>(e + 1 - before));
            }
        }
    }
}

}  // namespace
}  // namespace strata::device
