#pragma once
// The seam to the hardware: memory and the verbs of a training step. Nothing above this room knows what a
// device is; nothing in it knows what an SAE kind is.
//
// Shapes: n input width, M latents, B rows of this rank in the batch. Matrices are row-major with one row per
// latent: W_enc and W_dec are both [M, n] (W_enc is stored transposed, so that a latent's encoder direction
// is contiguous). All arithmetic is float32; sums over rows are accumulated in double.
//
// Verbs work on the batch last given to center() and may be called only in the order of the step:
//   center -> screen_* -> [select_largest] -> keep* -> [take_rows -> decode -> observe, latent_sums -> the
//   same for other code sets -> accumulate] for each range of rows -> update
// or, for rules that look at one pre-activation at a time, whose codes are those of a range alone,
//   center -> [take_rows -> screen_above -> keep_gate -> decode -> backprop, observe, latent_sums ->
//   accumulate] for each range of rows -> update
// or with everything but the update in one verb:
//   center -> dense -> update
//
// What a verb returns to the host has to be waited for where the device works beside it, so that verbs which
// need not be waited for return nothing, and what they found is asked for late (decode_sums, gradient_norm).

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/selection.h"
#include "device/operands.h"

namespace strata {
class Communicator;
class DeviceSums;
}  // namespace strata

namespace strata::device {

class Device {
  public:
    virtual ~Device() = default;
    virtual std::string name() const = 0;

    // Memory. Whether the host can read and write it in place, as other ranks of the host then can.
    virtual bool host_memory() const = 0;
    virtual void* allocate(std::size_t bytes) = 0;
    virtual void release(void* p, std::size_t bytes) = 0;
    virtual void upload(std::span<const std::byte> from, void* to) = 0;
    virtual void download(const void* from, std::span<std::byte> to) = 0;
    // `size` bytes for reading on the host: in place where device memory is host memory, else copied into
    // `copy`.
    virtual std::span<const std::byte> view(const void* from, std::size_t size,
                                            std::vector<std::byte>& copy) = 0;

    // Tensors::encoder of such an SAE; 0: none. update() keeps it as w_enc is. After any other change, and
    // for an SAE that is new, all ranks that share it call encoder_changed(), with no other verb on the SAE
    // under way at any of them.
    virtual std::size_t encoder_bytes(const Shape&) const { return 0; }
    virtual void encoder_changed(const Tensors&) {}

    // For devices with memory of their own: from the next prepare() on there is room for what is made of so
    // many rows of a batch at a time, xc, targets and residuals; the batch itself is there as files have it.
    // Ranges (take_rows) may not be longer then, and verbs of whole batches make xc again, some rows after
    // others. 0: of all.
    virtual void hold_at_most([[maybe_unused]] std::int64_t rows) {}

    // Makes room for batches of up to `rows` rows and SAEs of up to `width` latents with about `codes` codes
    // a batch. Everything that a step needs is allocated here; candidates beyond the estimate grow it.
    virtual void prepare(std::int64_t rows, std::int64_t n, std::int64_t width, std::int64_t codes) = 0;

    // For batches of up to so many rows; must not outlive the device. Null where it reads rows in host
    // memory.
    virtual std::unique_ptr<Parcel> make_parcel(const ParcelShape&) { return nullptr; }

    // The encoder's rows xc = x - b_dec (a transcoder's: x), and what the codes have to make up for,
    // y - b_dec [- x W_skip]. The batch stays where it is until the next one.
    virtual void center(const Rows& rows, const Tensors& sae) = 0;

    // For devices in host memory: from now on the ranks of `group`, which share it, make the gradients of
    // their batches together, each those of its part of the latents (part_of()); null: this rank alone, all.
    // Collective over the group, as accumulate() then is.
    virtual void join([[maybe_unused]] Communicator* group) {}

    // From now until the next center(): the verbs below that say so leave out masked pairs. The arrays stay
    // where they are until then.
    virtual void mask(const Mask& mask) = 0;

    // The verbs that the head of this file names for ranges work on the rows [first, last) of the batch
    // alone, so that what they make is as little as the caller wants; `first` is a multiple of range_rows, or
    // the range empty. Ranges follow one another from the first row to the last: accumulate() adds to the
    // gradients of those before, and sums by latent go on from theirs. center() begins with all rows.
    virtual void take_rows(std::int64_t first, std::int64_t last) = 0;

    // Screening: which pairs (row, latent) have a pre-activation z = xc . w_enc_j + b_enc_j that matters. The
    // product is made block by block, in float32 or coarser, and scanned in cache; a pair that could pass
    // within the product's error is recomputed by a dot product with one fixed summation order, and that
    // value is what counts, so that candidates and values do not depend on block sizes, threads or ranks.

    // Candidates: every pair with z >= at_least_j and z > 0; at_least is [M], or one number for all. Gives up
    // beyond `limit` candidates (0: no limit) and then returns false, with no usable candidates.
    virtual bool screen_above(const Tensors& sae, std::span<const float> at_least, std::int64_t limit) = 0;

    // Candidates: the k largest positive pre-activations of every row, ties to the lower latent. With
    // `subset` (ascending latents), among those latents only. With a mask, the k largest with it are
    // candidates as well.
    virtual void screen_row_top(const Tensors& sae, std::int64_t k,
                                std::span<const std::uint32_t> subset) = 0;

    // Leaves at most `cap` candidates to a row: the largest, ties to the lower latent.
    virtual void cap_rows(std::int64_t cap) = 0;

    // Counts of positive z by the top 11 of their 31 bits below the sign (bins of an eighth of a power of
    // two), over `rows` of the batch's rows spread evenly; counts has 2048 elements.
    virtual void pre_activation_histogram(const Tensors& sae, std::int64_t rows,
                                          std::span<std::uint64_t> counts) = 0;

    // select_largest() of comm/selection.h among all ranks' candidates, with or without those masked.
    // Collective over `comm`. `sums`: of the same ranks, where the device's memory is not the host's.
    virtual Selection select_largest(Communicator& comm, DeviceSums* sums, std::uint64_t k, bool masked) = 0;

    // Appends the candidates' values, in host memory.
    virtual void candidate_values(std::vector<float>& values) = 0;

    // Codes from candidates: those above the threshold, and the first `ties` of those equal to it in order of
    // (row, latent). Strict, as JumpReLU is. `masked`: masked pairs are passed over.
    virtual void keep(CodeSet set, float threshold, std::uint64_t ties, bool masked) = 0;
    // The k largest candidates of every row.
    virtual void keep_row_top(CodeSet set, std::int64_t k, bool masked) = 0;
    // Main and observed codes, gate and window by a rule, masks applied to all but the observed.
    virtual void keep_gate(const Gate& gate, const Tensors& sae, bool masked) = 0;
    // The codes of `from` that are not masked.
    virtual void keep_unmasked(CodeSet from, CodeSet set) = 0;

    // residual^(g) = f . W_dec - target over the latents of the first g groups, where the target of the main
    // codes is y - b_dec [- x W_skip], so that the residual is x_hat - y, and that of the auxiliary codes is
    // -residual^(G)(main), the error taken as a constant (no decoder bias). With gradient_scale != 0 also
    // dL/df_bj = gradient_scale R^(g) . d_j for every code, R^(g) = sum_{m >= g} residual^(m), g the latent's
    // group. The gate's codes are decoded like main ones, over the whole width.
    virtual void decode(CodeSet set, const Tensors& sae, float gradient_scale) = 0;
    // What decode() saw of the set in all rows, once the last of their ranges was decoded (not after dense(),
    // which says so itself). Main codes aside, of the set that was decoded last.
    virtual DecodeSums decode_sums(CodeSet set) = 0;

    // dL/df of the codes of another set (window) against the main codes' residual.
    virtual void backprop(CodeSet set, const Tensors& sae) = 0;
    // For the observed codes, as their `gradient`, the change of sum_g |residual^(g)|^2 without the code, if
    // it is among the main codes, or, with the sign turned, with it, if it is not:
    //   -2 f R . d + n f^2 |d|^2   or   -2 f R . d - n f^2 |d|^2,   n the prefixes that hold the latent.
    // Returns how many of the observed codes are masked.
    virtual std::uint64_t observe(const Tensors& sae) = 0;

    // Adds to `sums`, [n], those of the columns of residual^(G) over the rows of the range.
    virtual void add_residual_columns(const Tensors& sae, std::span<double> sums) = 0;
    // Sums over the rows of the batch: of the columns of y, [n], and, returned, of |y|^2.
    virtual double output_columns(const Tensors& sae, std::span<double> sums) = 0;

    // |residual^(G)| of this rank's rows, and row `b` of xc as center() made it, in host memory.
    virtual void residual_norms(std::vector<float>& norms) = 0;
    virtual void centered_row(std::int64_t b, std::span<float> row) = 0;

    // The main codes by row, in host memory: those of row b are [begin[b], begin[b + 1]), latents ascending.
    virtual void read_codes(std::vector<std::uint32_t>& begin, std::vector<std::uint32_t>& latent,
                            std::vector<float>& value) = 0;

    // Marks, in host memory, the latents that have a code: bit j of word j / 32.
    virtual void fired(CodeSet set, std::span<std::uint32_t> bits) = 0;
    // Adds to counts[j] the number of main codes of latent j; host memory, [M]. Not after dense(), nor of an
    // elementwise kind's ranges, which leave the last one's codes.
    virtual void count_codes(std::span<std::uint64_t> counts) = 0;
    // Sums by latent; the first range of rows sets them, the others add to them.
    virtual void latent_sums(CodeSet set, LatentSums& sums, std::int64_t width) = 0;

    // Gradients from the codes of `sets`, latent by latent, no atomics; s is the gradient_scale that decode()
    // was given, R that of the latent's group:
    //   dL/dd_j    = sum over sets of s sum_b f_bj R_b, less its component along d_j where rows are unit,
    //   else
    //                plus shrink_j (sum_b f_bj) d_j where shrink, [M] in host memory, is given
    //   dL/dw_j    = sum over sets of sum_b (dL/dz_bj) xc_b
    //   dL/db_enc  = sum over sets of sum_b dL/dz_bj
    //   dL/db_dec  = s sum_b R_b^(1) (main) - sum_j (dL/db_enc_j) w_j (not in a transcoder)
    //   dL/dW_skip = s sum_b x_b^T R_b^(1) (main)
    // Overwrites `gradient` but for what belongs to the kind; of several ranges of rows the last one
    // completes it. Then calls `done(first, last)` when W_enc and W_dec of the latents [first, last) are
    // complete, in order. `sums`, which may be empty, gets the sums of the first sets, of dL/df, over the
    // ranges so far.
    // Of ranks that joined each makes what goes by latent (the matrices, b_enc, `sums`) of its latents, over
    // all their rows, with zeros for other latents but in the matrices, which stay there as they are; b_dec
    // and W_skip, and the first term of each, come from its own rows. The sum over ranks is the same.
    virtual void accumulate(std::span<const SetUse> sets, std::span<const float> shrink, const Tensors& sae,
                            Tensors& gradient, std::span<LatentSums> sums,
                            const std::function<void(std::int64_t, std::int64_t)>& done) = 0;

    // The whole step up to the gradients by dense products, a few rows at a time: for rules under which so
    // many pairs are active that lists of them would cost more. The same sums and gradients as by the verbs
    // above, to rounding.
    virtual DenseReport dense(const Gate& gate, const Tensors& sae, float gradient_scale,
                              std::span<const float> shrink, Tensors& gradient) = 0;

    // The squared norm of W_enc's and W_dec's gradients as accumulate() or dense() made them.
    virtual double gradient_norm() = 0;

    // out = the sum of `of_ranks` in their order; returns its squared norm. `out` may be one of them.
    virtual double sum_in_order(std::span<const float* const> of_ranks, std::size_t count, float* out) = 0;
    // The squared norm of each array.
    virtual void square_norms(std::span<const std::span<float>> arrays, std::span<double> norms) = 0;
    // The norm of each of so many rows, in host memory.
    virtual void row_norms(std::span<const float> rows, std::span<float> norms) = 0;

    // The optimiser on the small tensors and on the latents [first, last) of the two matrices; every decoder
    // row of theirs, and of z, to unit norm where rows are. The moments' matrices may hold those latents
    // alone.
    virtual void update(Tensors& sae, const Tensors& gradient, Tensors& first_moment, Tensors& second_moment,
                        const OptimizerStep& step, std::int64_t first, std::int64_t last) = 0;

    // sae = w + (1 - 1 / beta1) (z - w), the average that schedule-free training is saved with, of the same
    // parts as update(); unit rows.
    virtual void average(Tensors& sae, const Tensors& z, float beta1, std::int64_t first,
                         std::int64_t last) = 0;

    // Bytes that prepare() and growth took.
    virtual std::size_t workspace_bytes() const = 0;
};

// How the CPU finds the pairs that matter (docs/screening.md); the result does not depend on it.
struct CpuOptions {
    std::string encoder = "auto";           // auto: whichever is faster | float32 | screened
    std::string screen_bound = "dithered";  // | certain
};
// UsageError if an encoder is demanded that this CPU, or any, cannot run.
std::unique_ptr<Device> make_cpu_device(int threads, const CpuOptions& options = {});

// How a GPU finds them: the format of the numbers in the product, whose roundings are allowed for; the result
// does not depend on it.
struct GpuOptions {
    std::string product = "auto";  // auto: bf16 | float32 | tf32 | bf16
};

template <typename T>
Memory<T> make_memory(Device& device, std::size_t size) {
    T* p = static_cast<T*>(device.allocate(size * sizeof(T)));
    return {{p, [&device, size](T* q) { device.release(q, size * sizeof(T)); }}, size};
}

Tensors make_tensors(Device& device, const Shape& shape);
// With the rows of the latents [first, last) alone in the matrices.
Tensors make_tensors(Device& device, const Shape& shape, std::int64_t first, std::int64_t last);

}  // namespace strata::device
