#pragma once
// The CUDA device. Every verb queues its kernels on one stream; only those that hand something to the host
// wait for it. All sums have a fixed order, without atomics on floats, so a step's bits depend neither on
// which block runs first nor on the size of tiles.

#include <memory>
#include <vector>

#include "device/cuda/graphs.h"
#include "device/cuda/product.h"
#include "device/cuda/tables.h"
#include "device/device.h"
#include "device/element.h"

namespace strata::device {

class CudaDevice final : public Device {
  public:
    CudaDevice(int ordinal, const GpuOptions& options, cuda::ProductTile tile = {});

    const cuda::Stream& stream() const { return stream_; }

    std::string name() const override;
    bool host_memory() const override { return false; }
    void* allocate(std::size_t bytes) override;
    void release(void* p, std::size_t bytes) override;
    void upload(std::span<const std::byte> from, void* to) override;
    void download(const void* from, std::span<std::byte> to) override;
    std::span<const std::byte> view(const void* from, std::size_t size,
                                    std::vector<std::byte>& copy) override;
    void hold_at_most(std::int64_t rows) override { hold_at_most_ = rows; }
    void prepare(std::int64_t rows, std::int64_t n, std::int64_t width, std::int64_t codes) override;
    std::unique_ptr<Parcel> make_parcel(const ParcelShape& shape) override;
    void center(const Rows& rows, const Tensors& sae) override;
    void mask(const Mask& mask) override;
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
    double gradient_norm() override;
    double sum_in_order(std::span<const float* const> of_ranks, std::size_t count, float* out) override;
    void square_norms(std::span<const std::span<float>> arrays, std::span<double> norms) override;
    void row_norms(std::span<const float> rows, std::span<float> norms) override;
    void update(Tensors& sae, const Tensors& gradient, Tensors& first_moment, Tensors& second_moment,
                const OptimizerStep& step, std::int64_t first, std::int64_t last) override;
    void average(Tensors& sae, const Tensors& z, float beta1, std::int64_t first, std::int64_t last) override;
    std::size_t workspace_bytes() const override;

  private:
    template <typename T>
    using DeviceArray = cuda::DeviceArray<T>;

    // What a row must reach: one number for all pairs or [M], or a limit that rises (screen_row_top).
    struct Screen {
        std::span<const float> at_least{};  // in device memory; empty: any positive
        std::int64_t k = 0;                 // of a row; 0: all that pass
        bool with_mask = false;
        const float* w_enc = nullptr;          // [latents, n]
        const float* b_enc = nullptr;          // [latents]
        const std::uint32_t* names = nullptr;  // [latents]; null: 0, 1, ...
        std::int64_t latents = 0;
    };
    void load(Slice rows);
    void hold(Slice rows);
    void hold_with_targets(Slice rows);
    void bound_errors(const Screen& screen);
    void multiply_tile(const Screen& screen, std::int64_t first, std::int64_t rows, std::int64_t column,
                       std::int64_t columns, std::int64_t stride);
    void start_limits(std::int64_t rows);
    void prune_lists(const Screen& screen, std::int64_t first, std::int64_t rows);
    bool screen_rows(const Screen& screen, std::int64_t limit);
    std::uint64_t screen_rows_once(const Screen& screen, std::uint32_t& longest);
    void queue_tiles(const Screen& screen, std::int64_t tile_rows, std::int64_t tile_latents);
    // Marks of candidates, and the candidates that have one.
    void mark_row_top(std::int64_t k, bool masked, std::uint32_t bit, bool clear);
    void keep_marked();

    GateView upload_gate(const Gate& gate, const Tensors& sae);
    template <typename Passes>
    void keep_if(CodeSet set, const cuda::Pairs& from, const Passes& passes);
    template <typename Passes>
    void filter(const cuda::Pairs& from, const Passes& passes, cuda::Pairs& to, float* gradient);
    std::uint32_t pairs_in(const cuda::Pairs& pairs);
    void transpose(cuda::CodeTable& codes, std::int64_t width);
    void sum_by_latent(const cuda::CodeTable& codes, std::int64_t width, double* sums);
    void add_sums(std::span<const double> from, std::int64_t width, LatentSums& to);
    void add_column_parts(std::int64_t count, double keep, double factor, double* sums);
    void add_columns(const float* rows, std::int64_t count, double* sums, bool keep);
    void send_sums_of_rows(CodeSet set);
    void add_in_order(std::span<const float* const> of_ranks, std::size_t count, float* out, double* norm);
    void add_all(const double* parts, std::int64_t count, double* sum);
    void weigh_squares(const Tensors& sae);
    void make_room_for_norms(std::int64_t parts);
    void send_gradient_norm(std::int64_t parts);
    void add_outputs(const Tensors& sae, Tensors& gradient);
    void finish_outputs(const Tensors& sae, float gradient_scale, Tensors& gradient);
    void download_counts(std::span<std::uint64_t> counts);
    cuda::Groups groups_of(const Shape& shape) const;
    cuda::DeviceMask device_mask(bool wanted = true) const;
    // A row of the batch in an array of the rows that are loaded.
    template <typename T>
    T* row_of(const DeviceArray<T>& rows, std::int64_t row) const {
        return rows.data() + (row - loaded_.first) * n_;
    }
    void require_range() const {
        cuda::require(loaded_.first <= first_row_ && last_row_ <= loaded_.last, "a range that was taken");
    }
    // R^(g) of the main codes, from the first row of the range on.
    const float* residuals(std::int64_t g) const {
        require_range();
        return row_of(codes_[static_cast<std::size_t>(CodeSet::main)].residual, first_row_) + g * room_ * n_;
    }
    // y - b_dec [- x W_skip], and y.
    const float* target(std::int64_t row) const { return row_of(has_target_ ? target_ : centered_, row); }
    const float* output(std::int64_t row) const { return row_of(has_output_ ? output_ : input_, row); }
    cuda::CodeTable& table(CodeSet set) { return codes_[static_cast<std::size_t>(set)]; }
    // Main codes have sums of rows of their own.
    struct SumsOfRows {
        DeviceArray<double> by_row{"sums by row"};  // [B, 7]
        DeviceArray<double> all{"sums over rows"};
        cuda::Arriving<double> arriving{"sums over rows"};
    };
    SumsOfRows& sums_of_rows(CodeSet set) { return sums_of_rows_[set == CodeSet::main ? 0 : 1]; }

    int ordinal_;
    cuda::Format format_;
    cuda::ProductTile tile_;
    cuda::Stream stream_;
    cuda::Stream copies_;  // of batches on their way
    cuda::Product product_;
    cuda::Graphs graphs_;

    std::int64_t capacity_ = 0;  // rows that prepare() made room for
    std::int64_t hold_at_most_ = 0,
                 room_ = 0;          // of those, rows whose x, xc and residuals are there at a time
    std::int64_t rows_ = 0, n_ = 0;  // of the present batch
    std::int64_t first_row_ = 0, last_row_ = 0;
    Rows batch_;
    Slice loaded_;  // rows of the batch that input_ and output_ hold, and if they are made, centered_ and
                    // target_
    bool centered_is_made_ = false, targets_are_made_ = false;
    bool has_output_ = false, has_target_ = false, has_mask_ = false;
    const float* w_skip_ = nullptr;
    DeviceArray<float> input_{"x"}, output_{"y"}, centered_{"xc"}, target_{"the targets"};  // [room_, n]
    DeviceArray<float> b_dec_{"b_dec"};                                                     // [n]
    DeviceArray<float> mask_draw_{"the masks' draws"}, mask_probability_{"the masks' probabilities"};

    // Encoder.
    DeviceArray<float> product_tile_{"a tile of the encoder's product"};  // [rows, latents]
    DeviceArray<__nv_bfloat16> half_rows_{"xc in bfloat16"};              // [room_, n]
    DeviceArray<__nv_bfloat16> half_weights_{"W_enc in bfloat16"};
    DeviceArray<cuda::ErrorOfRow> row_errors_{"the product's errors by row"};           // [room_]
    DeviceArray<cuda::ErrorOfLatent> latent_errors_{"the product's errors by latent"};  // [M]
    DeviceArray<float> at_least_{"the screen's limits"};                                // [M]
    DeviceArray<float> row_limit_{"the limits of rows"}, open_limit_{"the limits of rows, masks aside"};
    DeviceArray<std::uint32_t> list_latent_{"the lists of rows"};  // [rows of a tile, room of a list]
    DeviceArray<float> list_value_{"the lists of rows"};
    DeviceArray<std::uint32_t> list_used_{"the lengths of lists"};  // [rows of a tile]
    std::int64_t list_room_ = 0;
    DeviceArray<float> sample_{"a sample of rows"};  // [rows, n]
    DeviceArray<float> subset_weights_{"the subset's weights"}, subset_bias_{"the subset's biases"};
    DeviceArray<std::uint32_t> subset_{"the subset"};
    cuda::Pairs candidates_, other_candidates_;
    DeviceArray<unsigned long long> counters_{"counters"};              // [2048]
    DeviceArray<std::uint64_t> selection_{"the selection"};             // SelectionState, ties of each rank
    DeviceArray<std::uint64_t> all_counters_{"counters of all ranks"};  // [2048]

    cuda::CodeTable codes_[code_sets];
    DeviceArray<std::uint32_t> taken_{"marks of candidates"}, row_counts_{"counts by row"};
    DeviceArray<std::uint32_t> last_tie_{"ties"}, tie_begin_{"ties"};  // [1]; [B + 1]
    DeviceArray<std::uint32_t> latent_counts_{"counts by latent"};     // [chunks of rows, M]
    DeviceArray<std::uint32_t> latent_totals_{"counts by latent"};     // [M]
    DeviceArray<std::uint32_t> scan_sums_{"sums of a scan"};
    DeviceArray<std::uint32_t> fired_{"the latents that fired"};  // bits
    SumsOfRows sums_of_rows_[2];
    DeviceArray<double> latent_sums_{"sums by latent"};  // [sets, 4, M]
    cuda::Arriving<double> latent_sums_arriving_{"sums by latent"};
    // [M] over the ranges of rows so far: dL/db_enc; what other sets add along d_j; main's sums.
    DeviceArray<double> bias_sums_{"sums of dL/dz"}, other_along_{"sums along decoder rows"},
        along_sums_{"sums along decoder rows"}, value_sums_{"sums of codes"};
    DeviceArray<float> along_{"multiples of decoder rows"};  // [M]
    DeviceArray<float> gate_threshold_{"the gate"}, gate_gain_{"the gate"}, gate_offset_{"the gate"},
        gate_penalty_{"the gate"};                                              // [M]
    DeviceArray<float> set_numbers_{"gains and shifts"}, shrink_{"shrinking"};  // [sets, 2, M]; [M]
    DeviceArray<float> square_weight_{"weights of squares"};                    // [M]
    DeviceArray<double> partial_{"partial sums"}, parts_{"partial sums"}, column_sums_{"column sums"},
        sums_{"sums"}, norms_{"squared norms"}, gradient_norm_{"the gradients' norm"};
    cuda::Arriving<double> norms_arriving_{"squared norms"}, gradient_norm_arriving_{"the gradients' norm"};
    DeviceArray<double> dense_sums_{"sums by latent"};  // [13, M]
    // dense(), of a block of rows.
    DeviceArray<float> z_{"pre-activations"}, code_{"codes"}, gate_{"the gate's codes"}, dots_{"dL/df"},
        frozen_dots_{"dL/df of the gate"}, block_residual_{"residuals"},
        gate_residual_{"the gate's residuals"};
};

// On the GPU of this number, which becomes the calling thread's. RunError, with CUDA's words, if it cannot be
// used.
std::unique_ptr<Device> make_cuda_device(int ordinal, const GpuOptions& options);

}  // namespace strata::device
