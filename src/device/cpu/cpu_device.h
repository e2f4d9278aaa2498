#pragma once
// The CPU device: OpenMP over rows or latents, oneDNN for the blocks of the product, Highway for everything
// else. Results do not depend on the number of threads: work is cut into blocks whose sums are added in block
// order.

#include <atomic>
#include <vector>

#include "base/memory.h"
#include "device/cpu/kernels.h"
#include "device/device.h"

namespace strata::device {

// Pairs (row, latent) with a value, by row; the latents of a row ascend.
struct PairsByRow {
    std::vector<std::uint32_t> begin;  // [rows + 1]
    Array<std::uint32_t> latent;
    Array<float> value;
    std::int64_t size() const { return begin.empty() ? 0 : begin.back(); }
};

// A matrix [rows, n] cut into tiles of a few columns, [tiles, rows, width], the last one padded with zeros: a
// tile stays in a core's L2 while all latents gather their rows from it.
struct Tiles {
    Array<float> data;
    std::int64_t rows = 0, n = 0, width = 0;

    void reset(std::int64_t rows_, std::int64_t n_);
    std::int64_t count() const { return (n + width - 1) / width; }
    std::int64_t valid(std::int64_t tile) const { return std::min(width, n - tile * width); }
    float* at(std::int64_t tile, std::int64_t row) { return data.data() + (tile * rows + row) * width; }
    const float* at(std::int64_t tile, std::int64_t row) const {
        return data.data() + (tile * rows + row) * width;
    }
    void store(std::int64_t row, const float* values);
    void load(std::int64_t row, float* values) const;
};

// A code set: the codes by row, their gradients, the same by latent, and what is left to explain.
struct CodeTable {
    PairsByRow pairs;
    Array<float> gradient;                    // dL/df, in the order of pairs
    float gradient_scale = 0;                 // dL/df = gradient_scale * residual . d
    std::vector<std::uint32_t> latent_begin;  // [M + 1]
    Array<std::uint32_t> row_of;              // by latent; the rows of a latent ascend
    Array<float> value_of;                    // gradient_scale * f
    Array<float> gradient_of;
    Tiles residual;  // [B, n]
};

// What one block of rows leaves behind while it is screened; kept from step to step.
struct RowBlock {
    std::vector<std::uint32_t> row, latent;  // survivors in the order found
    std::vector<float> value;
    std::vector<std::uint32_t> count;  // [rows of the block] final candidates
    std::int64_t found = 0;
};

// A thread's own memory.
struct Scratch {
    Array<float> product;               // a block of the product
    Array<float> weights;               // gathered W_enc rows of a subset
    std::vector<float> row;             // [n]
    std::vector<float> bias;            // of a subset
    std::vector<std::uint32_t> order;   // sorting
    std::vector<std::uint32_t> latent;  // [rows, capacity] lists of screen_row_top
    std::vector<float> value;
    std::vector<std::int64_t> used;
    std::vector<float> limit;
    std::vector<float> selected;
};

// How far a pre-activation from the block product may be from the one that counts.
struct Rounding {
    float per_norm = 0, constant = 0;
    float slack(float centered_norm) const { return per_norm * centered_norm + constant; }
};

class CpuDevice final : public Device {
  public:
    explicit CpuDevice(int threads);

    std::string name() const override;
    void* allocate(std::size_t bytes) override;
    void release(void* p) override;
    void upload(std::span<const std::byte> from, void* to) override;
    void download(const void* from, std::span<std::byte> to) override;
    std::span<const std::byte> view(const void* from, std::size_t size,
                                    std::vector<std::byte>& copy) override;
    void prepare(std::int64_t rows, std::int64_t n, std::int64_t width, std::int64_t codes) override;
    void center(std::span<const float> x, std::int64_t rows, const Tensors& sae) override;
    bool screen_above(const Tensors& sae, float at_least, std::int64_t limit) override;
    void screen_row_top(const Tensors& sae, std::int64_t k, std::span<const std::uint32_t> subset) override;
    void cap_rows(std::int64_t cap) override;
    void pre_activation_histogram(const Tensors& sae, std::int64_t rows,
                                  std::span<std::uint64_t> counts) override;
    void histogram(std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts) override;
    void candidate_values(std::vector<float>& values) override;
    void keep(CodeSet set, float threshold, std::uint64_t ties) override;
    void keep_above(CodeSet set, std::span<const float> thresholds) override;
    DecodeSums decode(CodeSet set, const Tensors& sae, float gradient_scale) override;
    Moments column_sums(const Tensors& sae, std::span<double> residual, std::span<double> x) override;
    void read_codes(std::vector<std::uint32_t>& begin, std::vector<std::uint32_t>& latent,
                    std::vector<float>& value) override;
    void fired(std::span<std::uint32_t> bits) override;
    void count_codes(std::span<std::uint64_t> counts) override;
    double accumulate(std::span<const CodeSet> sets, const Tensors& sae, Tensors& gradient,
                      const std::function<void(std::int64_t, std::int64_t)>& done) override;
    double square_norm(const Tensors& t) override;
    void update(Tensors& sae, const Tensors& gradient, Tensors& first, Tensors& second,
                const AdamStep& step) override;
    std::size_t workspace_bytes() const override;

  private:
    std::int64_t block_rows(std::int64_t bytes_per_row) const;
    Rounding rounding_of(const Tensors& sae) const;
    void screen_block(const Tensors& sae, std::int64_t block, std::int64_t first, std::int64_t count,
                      float at_least, const Rounding& rounding);
    void top_block(const Tensors& sae, std::int64_t k, std::span<const std::uint32_t> subset,
                   std::int64_t block, std::int64_t first, std::int64_t count, const Rounding& rounding);
    void collect_candidates(std::int64_t rows_per_block);
    float* centered_row(std::int64_t b) { return centered_.data() + b * n_; }
    CodeTable& table(CodeSet set) { return codes_[set == CodeSet::main ? 0 : 1]; }
    const CodeTable& table(CodeSet set) const { return codes_[set == CodeSet::main ? 0 : 1]; }
    template <typename Passes>
    void keep_if(CodeSet set, const Passes& passes);
    void transpose(CodeTable& codes, std::int64_t width);
    void add_columns(const Tiles& rows, std::span<double> sums);
    double accumulate_group(std::span<const CodeSet> sets, const Tensors& sae, Tensors& gradient,
                            std::int64_t group, std::int64_t tile);

    int threads_;
    Kernels kernels_;
    std::int64_t rows_ = 0, n_ = 0;     // of the present batch
    Array<float> centered_;             // [B, n] xc
    Tiles centered_tiles_;              // the same
    std::vector<float> centered_norm_;  // [B] |xc|
    PairsByRow candidates_;
    std::vector<RowBlock> blocks_;
    std::vector<Scratch> scratch_;  // by thread
    CodeTable codes_[2];
    std::vector<std::uint32_t> counts_;  // transposition: [threads, M]
    std::vector<DecodeSums> row_sums_;   // [B]
    Array<double> partial_;              // [groups, n] sums by group of rows or latents
    std::vector<double> part_norms_;
    std::vector<float> along_;  // [M] component of the decoder's gradient along d_j
};

}  // namespace strata::device
