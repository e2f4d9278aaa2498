#pragma once
// The seam to the hardware: memory and the verbs of a training step. Nothing above this room knows what a
// device is; nothing in it knows what an SAE kind is.
//
// Shapes: n input width, M latents, B rows of this rank in the batch. Matrices are row-major with one row per
// latent: W_enc and W_dec are both [M, n] (W_enc is stored transposed, so that a latent's encoder direction
// is contiguous). All arithmetic is float32; sums over rows are accumulated in double.
//
// Verbs work on the batch last given to center() and may be called only in the order of the step:
//   center -> screen_* -> [histogram] -> keep* -> decode -> [the same for the auxiliary codes] -> accumulate
//   -> update

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace strata::device {

// Device memory that a device allocated; freed with it. Zeroed when made.
template <typename T>
struct Memory {
    std::unique_ptr<T[], std::function<void(T*)>> owner;
    std::size_t size = 0;
    T* data() const { return owner.get(); }
    std::span<T> span() const { return {owner.get(), size}; }
};

// An SAE's parameters, or their gradients, or a moment of those: four tensors in device memory.
struct Tensors {
    std::int64_t n = 0, width = 0;
    Memory<float> w_enc;  // [M, n]
    Memory<float> w_dec;  // [M, n]
    Memory<float> b_enc;  // [M]
    Memory<float> b_dec;  // [n]
};

// The two sets of codes that a step may hold.
enum class CodeSet { main, auxiliary };

// What a row of the batch looks like after decode(), summed over this rank's rows.
struct DecodeSums {
    double squared_error = 0;  // sum of |x - x_hat|^2
    double l1 = 0;             // sum of |f|
    double cosine = 0;         // sum over rows of cos(x, x_hat), uncentred x; 0 where either is zero
    std::uint64_t active = 0;  // codes > 0
};

struct AdamStep {
    float lr = 0;
    float beta1 = 0.9F, beta2 = 0.999F, epsilon = 1e-8F;
    float correction1 = 1, correction2 = 1;  // 1 - beta^t
    float gradient_scale = 1;                // clipping
};

class Device {
  public:
    virtual ~Device() = default;
    virtual std::string name() const = 0;

    // Memory.
    virtual void* allocate(std::size_t bytes) = 0;
    virtual void release(void* p) = 0;
    virtual void upload(std::span<const std::byte> from, void* to) = 0;
    virtual void download(const void* from, std::span<std::byte> to) = 0;
    // `size` bytes for reading on the host: in place where device memory is host memory, else copied into
    // `copy`.
    virtual std::span<const std::byte> view(const void* from, std::size_t size,
                                            std::vector<std::byte>& copy) = 0;

    // Makes room for batches of up to `rows` rows and SAEs of up to `width` latents with about `codes` codes
    // a batch. Everything that a step needs is allocated here; candidates beyond the estimate grow it.
    virtual void prepare(std::int64_t rows, std::int64_t n, std::int64_t width, std::int64_t codes) = 0;

    // xc = x - b_dec for the rows of a batch; x [rows, n] in host memory.
    virtual void center(std::span<const float> x, std::int64_t rows, const Tensors& sae) = 0;

    // Screening: which pairs (row, latent) have a pre-activation z = xc . w_enc_j + b_enc_j that matters. The
    // product is made block by block in float32 and scanned in cache; a pair that could pass within the
    // product's rounding error is recomputed by a dot product with one fixed summation order, and that value
    // is what counts, so that candidates and values do not depend on block sizes, threads or ranks.

    // Candidates: every pair with z >= at_least and z > 0. Gives up beyond `limit` candidates (0: no limit)
    // and then returns false, with no usable candidates.
    virtual bool screen_above(const Tensors& sae, float at_least, std::int64_t limit) = 0;

    // Candidates: the k largest positive pre-activations of every row, ties to the lower latent. With
    // `subset` (ascending latents), among those latents only.
    virtual void screen_row_top(const Tensors& sae, std::int64_t k,
                                std::span<const std::uint32_t> subset) = 0;

    // Leaves at most `cap` candidates to a row: the largest, ties to the lower latent.
    virtual void cap_rows(std::int64_t cap) = 0;

    // Counts of positive z by the top 11 of their 31 bits below the sign (bins of an eighth of a power of
    // two), over `rows` of the batch's rows spread evenly; counts has 2048 elements.
    virtual void pre_activation_histogram(const Tensors& sae, std::int64_t rows,
                                          std::span<std::uint64_t> counts) = 0;

    // Counts the candidates by digit; the DigitHistogram of comm/selection.h.
    virtual void histogram(std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts) = 0;

    // Appends the candidates' values, in host memory.
    virtual void candidate_values(std::vector<float>& values) = 0;

    // Codes from candidates: those above the threshold, and the first `ties` of those equal to it in order of
    // (row, latent). Strict, as JumpReLU is.
    virtual void keep(CodeSet set, float threshold, std::uint64_t ties) = 0;
    // The same with a threshold per latent, [M] in host memory.
    virtual void keep_above(CodeSet set, std::span<const float> thresholds) = 0;

    // residual = f . W_dec - target, where the target of the main codes is xc, so that the residual is x_hat
    // - x, and that of the auxiliary codes is -residual(main), the error x - x_hat taken as a constant (no
    // decoder bias). With gradient_scale != 0 also dL/df_bj = gradient_scale * residual_b . d_j for every
    // code.
    virtual DecodeSums decode(CodeSet set, const Tensors& sae, float gradient_scale) = 0;

    // Sums over this rank's rows of the columns of the residual and of x, [n] doubles each (either may be
    // empty), and the sums of their squared norms.
    struct Moments {
        double residual_square = 0, x_square = 0;
    };
    virtual Moments column_sums(const Tensors& sae, std::span<double> residual, std::span<double> x) = 0;

    // The main codes by row, in host memory: those of row b are [begin[b], begin[b + 1]), latents ascending.
    virtual void read_codes(std::vector<std::uint32_t>& begin, std::vector<std::uint32_t>& latent,
                            std::vector<float>& value) = 0;

    // Marks, in host memory, the latents that have a main code: bit j of word j / 32.
    virtual void fired(std::span<std::uint32_t> bits) = 0;
    // Adds to counts[j] the number of main codes of latent j; host memory, [M].
    virtual void count_codes(std::span<std::uint64_t> counts) = 0;

    // Gradients of all four tensors from the codes of `sets` (main, or main and auxiliary), latent by latent,
    // no atomics; s is the gradient_scale that decode() was given:
    //   dL/dd_j   = sum over sets of s sum_b f_bj residual_b, less its component along d_j (unit rows)
    //   dL/dw_j   = sum over sets of sum_b (dL/df_bj) xc_b
    //   dL/db_enc = sum over sets of sum_b dL/df_bj
    //   dL/db_dec = s sum_b residual_b (main) - sum_j (dL/db_enc_j) w_j
    // Overwrites `gradient`. Calls `done(first, last)` when W_enc and W_dec of the latents [first, last) are
    // complete, in order. Returns the squared norm of what it wrote.
    virtual double accumulate(std::span<const CodeSet> sets, const Tensors& sae, Tensors& gradient,
                              const std::function<void(std::int64_t, std::int64_t)>& done) = 0;

    // Squared norm of a whole set of tensors.
    virtual double square_norm(const Tensors& t) = 0;

    // Adam on all four tensors, then every decoder row to unit norm.
    virtual void update(Tensors& sae, const Tensors& gradient, Tensors& first, Tensors& second,
                        const AdamStep& step) = 0;

    // Bytes that prepare() and growth took.
    virtual std::size_t workspace_bytes() const = 0;
};

std::unique_ptr<Device> make_cpu_device(int threads);

template <typename T>
Memory<T> make_memory(Device& device, std::size_t size) {
    T* p = static_cast<T*>(device.allocate(size * sizeof(T)));
    return {{p, [&device](T* q) { device.release(q); }}, size};
}

Tensors make_tensors(Device& device, std::int64_t n, std::int64_t width);

}  // namespace strata::device
