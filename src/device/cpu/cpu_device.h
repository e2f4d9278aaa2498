#pragma once
// The CPU device: OpenMP over rows or latents, oneDNN for the blocks of the product, Highway for everything
// else. Results do not depend on the number of threads: work is cut into blocks whose sums are added in block
// order.

#include <map>
#include <vector>

#include "base/memory.h"
#include "device/cpu/by_latent.h"
#include "device/cpu/host_batch.h"
#include "device/cpu/kernels.h"
#include "device/cpu/lists.h"
#include "device/cpu/screen.h"
#include "device/device.h"
#include "device/element.h"

namespace strata::device {

// Of a block of the product.
constexpr std::int64_t block_columns = 384;
constexpr std::int64_t most_block_rows = 512;  // x 384 columns x 4 bytes = 768 KiB, within a core's L2

// What accumulate() sums over: this rank's rows, or those of all ranks of the host.
struct Summands {
    struct Set {
        const SetUse* use;
        ByLatent* codes;
        float scale;  // of the values
        std::vector<TileView> residual;
    };
    TileView centered;
    std::vector<Set> sets;
    Slice latents;           // whose matrix gradients are wanted; sets have codes of no other
    bool first_rows = true;  // no range of rows came before
    bool last_rows = true;
};

// Latents [first, last), all of one prefix group.
struct LatentTile {
    std::int64_t first, last, group;
};

// How far a pre-activation from the block product may be from the one that counts.
struct Rounding {
    float per_norm = 0, constant = 0;
    float slack(float centered_norm) const { return per_norm * centered_norm + constant; }
};

class CpuDevice final : public Device {
  public:
    // `screen`: the instruction set of the screened encoder; null: none.
    explicit CpuDevice(int threads, const CpuOptions& options = {},
                       const ScreenKernels* screen = screen_kernels());

    std::string name() const override;
    bool host_memory() const override { return true; }
    void* allocate(std::size_t bytes) override;
    void release(void* p, std::size_t bytes) override;
    void upload(std::span<const std::byte> from, void* to) override;
    void download(const void* from, std::span<std::byte> to) override;
    std::span<const std::byte> view(const void* from, std::size_t size,
                                    std::vector<std::byte>& copy) override;
    std::size_t encoder_bytes(const Shape& shape) const override;
    void encoder_changed(const Tensors& sae) override;
    void prepare(std::int64_t rows, std::int64_t n, std::int64_t width, std::int64_t codes) override;
    void center(const Rows& rows, const Tensors& sae) override;
    void mask(const Mask& mask) override;
    void join(Communicator* group) override;
    void take_rows(std::int64_t first, std::int64_t last) override;
    bool screen_above(const Tensors& sae, std::span<const float> at_least, std::int64_t limit) override;
    void screen_row_top(const Tensors& sae, std::int64_t k, std::span<const std::uint32_t> subset) override;
    void cap_rows(std::int64_t cap) override;
    void pre_activation_histogram(const Tensors& sae, std::int64_t rows,
                                  std::span<std::uint64_t> counts) override;
    Selection select_largest(Communicator& comm, DeviceSums* sums, std::uint64_t k, bool masked) override;
    void candidate_values(std::vector<float>& values) override;
    void keep(CodeSet set, float threshold, std::uint64_t ties, bool masked) override;
    void keep_row_top(CodeSet set, std::int64_t k, bool masked) override;
    void keep_gate(const Gate& gate, const Tensors& sae, bool masked) override;
    void keep_unmasked(CodeSet from, CodeSet set) override;
    void decode(CodeSet set, const Tensors& sae, float gradient_scale) override;
    DecodeSums decode_sums(CodeSet set) override;
    void backprop(CodeSet set, const Tensors& sae) override;
    std::uint64_t observe(const Tensors& sae) override;
    void add_residual_columns(const Tensors& sae, std::span<double> sums) override;
    double output_columns(const Tensors& sae, std::span<double> sums) override;
    void residual_norms(std::vector<float>& norms) override;
    void centered_row(std::int64_t b, std::span<float> row) override;
    void read_codes(std::vector<std::uint32_t>& begin, std::vector<std::uint32_t>& latent,
                    std::vector<float>& value) override;
    void fired(CodeSet set, std::span<std::uint32_t> bits) override;
    void count_codes(std::span<std::uint64_t> counts) override;
    void latent_sums(CodeSet set, LatentSums& sums, std::int64_t width) override;
    void accumulate(std::span<const SetUse> sets, std::span<const float> shrink, const Tensors& sae,
                    Tensors& gradient, std::span<LatentSums> sums,
                    const std::function<void(std::int64_t, std::int64_t)>& done) override;
    DenseReport dense(const Gate& gate, const Tensors& sae, float gradient_scale,
                      std::span<const float> shrink, Tensors& gradient) override;
    double gradient_norm() override { return gradient_norm_; }
    double sum_in_order(std::span<const float* const> of_ranks, std::size_t count, float* out) override;
    void square_norms(std::span<const std::span<float>> arrays, std::span<double> norms) override;
    void row_norms(std::span<const float> rows, std::span<float> norms) override;
    void update(Tensors& sae, const Tensors& gradient, Tensors& first_moment, Tensors& second_moment,
                const OptimizerStep& step, std::int64_t first, std::int64_t last) override;
    void average(Tensors& sae, const Tensors& z, float beta1, std::int64_t first, std::int64_t last) override;
    std::size_t workspace_bytes() const override;

  private:
    // One use of the encoder: by which product, since when, and whether its time counts.
    struct Encoding {
        double start = 0;
        bool screened = false, timed = true;
    };
    // The best seconds a row of the first calls, then their moving averages.
    struct EncoderTimes {
        double float32 = 1e30, screened = 1e30;
        std::uint64_t calls = 0;
        bool choice = false;   // screened
        bool wanted = false;   // this rank counts in Integers::Header::wanted
        bool refused = false;  // a batch that the screened one could not take was reported
    };
    // `encoders`: sae itself, or some of its latents.
    Encoding start_encoding(const Tensors& sae, const Tensors& encoders, std::span<const float> at_least,
                            bool by_row);
    bool wants_screen(const EncoderTimes& times) const;
    void finish_encoding(const Tensors& sae, const Encoding& encoding);
    void time_encoding(const Tensors& sae, const Encoding& encoding, EncoderTimes& times) const;
    std::int64_t block_rows(std::int64_t bytes_per_row, bool screened) const;
    Rounding rounding_of(const Tensors& sae, std::span<const float> at_least) const;
    void screen_block(const Tensors& sae, const float* bias, std::int64_t block, std::int64_t first,
                      std::int64_t count, std::span<const float> at_least, const Rounding& rounding,
                      bool screened);
    std::int64_t screen_columns(std::int64_t column, std::int64_t columns, std::int64_t first,
                                std::int64_t count, PairList& found);
    void take_encoders(const Tensors& sae, std::span<const std::uint32_t> latents);
    void top_block(const Tensors& sae, std::int64_t k, bool with_mask, std::int64_t block, std::int64_t first,
                   std::int64_t count, const Rounding& rounding, bool screened);
    void collect_candidates(std::int64_t rows_per_block);
    float* xc(std::int64_t b) { return centered_.data() + b * n_; }
    const float* xc(std::int64_t b) const { return centered_.data() + b * n_; }
    void align_row(const Tensors& sae, std::int64_t b, const float* residual, DecodeSums& sums) const;
    // y - b_dec [- x W_skip] of a row.
    const float* target_row(std::int64_t b) const {
        return (target_.size() > 0 ? target_.data() : centered_.data()) + b * n_;
    }
    // y of a row, in host memory.
    const float* output_row(std::int64_t b) const {
        return (batch_.target.empty() ? batch_.x.data() : batch_.target.data()) + b * n_;
    }
    CodeTable& table(CodeSet set) { return codes_[static_cast<std::size_t>(set)]; }
    const CodeTable& table(CodeSet set) const { return codes_[static_cast<std::size_t>(set)]; }
    bool masked(std::size_t row, std::uint32_t latent) const {
        return !mask_.empty() && mask_.draw[row] < mask_.probability[latent];
    }
    void count_digits(bool with_mask, std::uint32_t prefix, int shift, int digits,
                      std::span<std::uint64_t> counts);
    std::vector<DecodeSums>& row_sums(CodeSet set) {
        return set == CodeSet::main ? row_sums_ : other_row_sums_;
    }
    static GateView view_of(const Gate& gate, const Tensors& sae);
    template <typename Passes, typename Value>
    void keep_if(CodeSet set, const PairsByRow& from, const Passes& passes, const Value& value);
    template <typename Wanted, typename Pair>
    void for_each_dot(const PairsByRow& pairs, const Tensors& sae, const Wanted& wanted, const Pair& pair);
    void transpose(CodeTable& codes, std::int64_t width);
    void sum_by_latent(const ByLatent& codes, float scale, LatentSums& sums) const;
    // Of what a code adds to the error besides its product with the residual: prefixes that hold the latent,
    // times |d_j|^2, [M].
    void weigh_squares(const Tensors& sae);
    void add_columns(const TileView& tiles, Slice rows, std::span<double> sums);
    Summands summands(std::span<const SetUse> sets, std::int64_t width);
    double accumulate_group(const Summands& from, const Tensors& sae, Tensors& gradient, Slice latents,
                            std::int64_t tile) const;
    void dense_encode(const GateView& gate, const Tensors& sae, std::span<const LatentTile> tiles,
                      std::int64_t first, std::int64_t count);
    void dense_decode(const GateView& gate, const Tensors& sae, std::int64_t first, std::int64_t count);
    void dense_backprop(const GateView& gate, const Tensors& sae, std::span<const LatentTile> tiles,
                        std::int64_t first, std::int64_t count, float gradient_scale, Tensors& gradient);
    void finish_outputs(const Tensors& sae, std::span<const double> residual, float gradient_scale,
                        Tensors& gradient);
    void unit_row(float* d) const;
    double square_norm(std::span<const float> values);
    double sum_of_parts() const;  // of part_norms_
    void add_skip_gradient(const float* residual, std::int64_t count, std::int64_t first, float scale,
                           float keep, Tensors& gradient);

    int threads_;
    CpuOptions options_;
    Kernels kernels_;
    Screen screen_;
    std::map<const float*, EncoderTimes> encoder_times_;  // by W_enc
    std::int64_t rows_ = 0, n_ = 0;                       // of the present batch
    std::int64_t first_row_ = 0, last_row_ = 0;           // the range of its rows that lists are made of
    std::vector<float> no_bias_;                          // [n] zeros
    Rows batch_;                                          // the same, in host memory
    std::uint64_t unnumbered_ = 0;  // batches that came without a number have 2^64 - this
    Mask mask_;
    Array<float> centered_;             // [B, n] xc
    Array<float> target_;               // [B, n] of transcoders; empty: that is xc
    Tiles centered_tiles_;              // xc
    std::vector<float> centered_norm_;  // [B] |xc|
    PairsByRow candidates_;
    Tensors subset_;                   // encoders of some latents, for screen_row_top
    std::vector<float> shifted_bias_;  // [M] b_enc - at_least, of a screen with a limit for each latent
    std::vector<RowBlock> blocks_;
    std::vector<Scratch> scratch_;  // by thread
    CodeTable codes_[code_sets];
    Communicator* group_ = nullptr;  // of join()
    HostBatch host_;
    std::vector<char> taken_;            // [candidates] of keep_row_top()
    std::vector<std::uint32_t> counts_;  // transposition: [threads, M]
    std::vector<DecodeSums> row_sums_;   // [B] of the main codes
    std::vector<DecodeSums> other_row_sums_;
    Array<double> partial_;  // [groups, n] sums by group of rows or latents
    std::vector<double> part_norms_;
    double gradient_norm_ = 0;
    // [M] of accumulate(), over the ranges of rows so far: dL/db_enc; what sets other than main add to the
    // multiple of d_j that is taken from the decoder's gradient; that multiple.
    std::vector<double> bias_sums_, other_along_;
    LatentSums main_sums_;  // where nobody else wants them
    std::vector<float> along_;
    std::vector<float> square_weight_;  // [M] of weigh_squares()
    DenseScratch dense_scratch_;
};

}  // namespace strata::device
