// Training that goes on from a checkpoint is the training that was not stopped, bit for bit, for every kind
// and at every place: while penalties rise, while masks begin, just before a resampling and just after. Run
// at 1, 2, 3 and 4 ranks; a checkpoint of any division of them, or of one rank, is read in any other.

#include <gtest/gtest.h>

#include <algorithm>

#include "comm/mpi.h"
#include "comm/self.h"
#include "support/divisions.h"
#include "support/kinds.h"
#include "support/shared_folder.h"
#include "train/checkpoint.h"

namespace strata {
namespace {

using test::KindCase;
using test::Training;

constexpr std::int64_t rows = KindCase::rows;
constexpr int steps = 8;

class Resume : public testing::TestWithParam<KindCase> {
  protected:
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    const std::unique_ptr<Communicator> self = make_self_communicator();
    const test::SharedFolder folder{*comm};
    const KindCase& c = GetParam();

    Training::Options options(int group_size) const {
        Training::Options options = c.options(1);
        options.group_size = group_size;
        return options;
    }

    // As a run makes it before it reads a checkpoint: other values everywhere.
    std::unique_ptr<Training> make(Communicator& ranks, int group_size, bool fresh) const {
        reference::Sae<float> start = test::start_of(c);
        if (!fresh)
            for (int i = 0; i < reference::Sae<float>::tensors; ++i)
                for (float& v : start.tensor(i)) v += 0.125F;
        return std::make_unique<Training>(ranks, start, c.config, rows, KindCase::mean_square,
                                          options(group_size));
    }

    static void step(Training& training, const KindCase& c, int t) {
        const test::Rows batch = test::rows_of(c, t);
        const Communicator& ranks = training.replicas.all;
        training.step(batch.x, batch.target, test::first_row(rows, ranks.rank(), ranks.size(), false),
                      test::first_row(rows, ranks.rank() + 1, ranks.size(), false), test::optimizer_at(t), t,
                      KindCase::lr);
    }

    void save(Training& training, const std::string& name, int t) const {
        train::Progress progress;
        progress.step = t;
        train::CheckpointWriter writer(folder / name, training.device, training.replicas, steps);
        writer.begin(progress, {&training.sae, 1});
        writer.finish();
    }

    std::unique_ptr<Training> load(Communicator& ranks, int group_size, const std::string& name,
                                   int t) const {
        std::unique_ptr<Training> training = make(ranks, group_size, false);
        const train::Checkpoint from{folder / name / fmt::format("step-{}", t), {}};
        train::load_checkpoint(from, {&training->sae, 1}, training->device, training->replicas);
        ranks.barrier();
        return training;
    }
};

TEST_P(Resume, GoesOnBitForBitFromEveryStep) {
    const int division = test::divisions().back();
    std::vector<std::uint64_t> states;
    std::int64_t resampled_at = -1;
    const std::unique_ptr<Training> whole = make(*comm, division, true);
    for (int t = 0; t <= steps; ++t) {
        if (t > 0 && t < steps) save(*whole, "it", t);
        states.push_back(whole->state_bits());
        if (t < steps) step(*whole, c, t);
        if (t == 3) resampled_at = whole->sae.resampled_at;
    }
    EXPECT_EQ(resampled_at, c.config.resample_every > 0 ? 2 : -1) << "the next is after step 5";
    for (int cut = 1; cut < steps; ++cut) {
        SCOPED_TRACE(cut);
        const std::unique_ptr<Training> resumed = load(*comm, division, "it", cut);
        for (int t = cut; t <= steps; ++t) {
            EXPECT_EQ(resumed->state_bits(), states[static_cast<std::size_t>(t)]) << "before step " << t;
            if (t < steps) step(*resumed, c, t);
        }
    }
}

TEST_P(Resume, ReadsWhatAnyDivisionOfTheRanksWrote) {
    constexpr int cut = 3;
    for (const int from : test::divisions()) {
        const std::string name = test::name_of_division(from);
        const std::unique_ptr<Training> before = make(*comm, from, true);
        for (int t = 0; t < cut; ++t) step(*before, c, t);
        save(*before, name, cut);
        const std::uint64_t state = before->whole_state_bits();
        step(*before, c, cut);
        for (const int to : test::divisions()) {
            SCOPED_TRACE(fmt::format("from {} to {}", from, to));
            const std::unique_ptr<Training> after = load(*comm, to, name, cut);
            EXPECT_EQ(after->whole_state_bits(), state);
            EXPECT_TRUE(after->replicas_agree());
            step(*after, c, cut);
            EXPECT_EQ(after->sae.silent, before->sae.silent);
            const reference::Sae<float> found = after->parameters(), expected = before->parameters();
            for (int i = 0; i < reference::Sae<float>::tensors; ++i)
                EXPECT_LT(test::relative_difference(found.tensor(i), expected.tensor(i)), 2e-5)
                    << reference::Sae<float>::names[i];
            comm->barrier();  // before a rank goes on to change them
        }
        // And one rank what all of them wrote.
        EXPECT_EQ(load(*self, 0, name, cut)->whole_state_bits(), state);
    }
}

TEST_P(Resume, SeveralRanksReadWhatOneWrote) {
    constexpr int cut = 3;
    const std::unique_ptr<Training> alone = make(*self, 0, true);
    for (int t = 0; t < cut; ++t) step(*alone, c, t);
    if (comm->rank() == 0) save(*alone, "alone", cut);
    comm->barrier();
    const std::uint64_t state = alone->whole_state_bits();
    for (const int to : test::divisions())
        EXPECT_EQ(load(*comm, to, "alone", cut)->whole_state_bits(), state);
}

// Each kind alone, with everything, and resampled under masks.
std::vector<KindCase> cases() {
    std::vector<KindCase> all;
    for (const KindCase& c : test::kind_cases())
        if (c.name.ends_with("_all") || c.name.ends_with("_resampling_masked") ||
            (!c.config.atm && !c.transcoder && make_mpi_communicator()->size() == 1))
            all.push_back(c);
    return all;
}
INSTANTIATE_TEST_SUITE_P(With, Resume, testing::ValuesIn(cases()), test::name_of_case);

}  // namespace
}  // namespace strata
