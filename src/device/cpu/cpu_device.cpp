#include "device/cpu/cpu_device.h"

#include <omp.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "device/cpu/product.h"

namespace strata::device {

CpuDevice::CpuDevice(int threads, const CpuOptions& options, const ScreenKernels* screen)
    : threads_(threads),
      options_(options),
      kernels_(kernels()),
      screen_(make_screen(options.screen_bound == "certain", screen)) {
    scratch_.resize(static_cast<std::size_t>(threads));
    // For oneDNN, which is called inside parallel regions: in one of a single thread it would start as many
    // of its own as the machine has cores, and ranks that share the cores would wait for each other's.
    omp_set_num_threads(threads);
}

std::string CpuDevice::name() const {
    return fmt::format("cpu, {} thread{}, {}", threads_, threads_ == 1 ? "" : "s", kernels_.target);
}

// Large blocks are mapped, not taken from the heap: their pages come zeroed and cost nothing until they are
// written.
void* CpuDevice::allocate(std::size_t bytes) {
    if (bytes == 0) return nullptr;
    void* p = bytes >= huge_page ? map_zeroed(bytes) : std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p == nullptr) fail("out of memory: {} bytes asked for", bytes);
    if (bytes < huge_page) std::memset(p, 0, bytes);
    return p;
}

void CpuDevice::release(void* p, std::size_t bytes) {
    if (bytes >= huge_page)
        munmap(p, bytes);
    else
        std::free(p);
}

void CpuDevice::upload(std::span<const std::byte> from, void* to) {
    std::ranges::copy(from, static_cast<std::byte*>(to));
}

void CpuDevice::download(const void* from, std::span<std::byte> to) {
    std::copy_n(static_cast<const std::byte*>(from), to.size(), to.data());
}

std::span<const std::byte> CpuDevice::view(const void* from, std::size_t size, std::vector<std::byte>&) {
    return {static_cast<const std::byte*>(from), size};
}

std::size_t CpuDevice::encoder_bytes(const Shape& shape) const {
    return screen_.kernels == nullptr || options_.encoder == "float32" ? 0 : latent_bytes(screen_, shape);
}

void CpuDevice::encoder_changed(const Tensors& sae) {
    if (sae.encoder.size == 0) return;
    // All ranks come here, each for itself; update() left them wanted if they are made.
    encoder_times_[sae.w_enc.data()].wanted = false;
    Integers::Header& header = *shared_latents(screen_, sae).header;
    if (header.made.exchange(0) != 0) header.wanted = 0;
}

void CpuDevice::prepare(std::int64_t rows, std::int64_t n, std::int64_t width, std::int64_t codes) {
    const auto elements = static_cast<std::size_t>(rows * n);
    const auto estimate = static_cast<std::size_t>(codes);
    n_ = n;
    no_bias_.assign(static_cast<std::size_t>(n), 0.0F);
    centered_.reset(elements);
    centered_tiles_.reset(rows, n);
    centered_norm_.resize(static_cast<std::size_t>(rows));
    row_sums_.resize(static_cast<std::size_t>(rows));
    candidates_.latent.reset(estimate * 2);
    candidates_.value.reset(estimate * 2);
    CodeTable& main = table(CodeSet::main);
    main.residual.resize(std::max<std::size_t>(1, main.residual.size()));
    for (Tiles& tiles : main.residual) tiles.reset(rows, n);
    main.by_latent.begin.reserve(static_cast<std::size_t>(width) + 1);
    main.by_latent.row.reset(estimate);
    for (auto* a : {&main.pairs.value, &main.gradient, &main.by_latent.value, &main.by_latent.gradient})
        a->reset(estimate);
    main.pairs.latent.reset(estimate);
    counts_.reserve(static_cast<std::size_t>(threads_) * static_cast<std::size_t>(width));
}

void CpuDevice::center(const Rows& rows, const Tensors& sae) {
    STRATA_ASSERT(sae.n == n_ && static_cast<std::int64_t>(rows.x.size()) == rows.count * n_ &&
                  static_cast<std::size_t>(rows.count) <= centered_norm_.size() &&
                  (rows.target.empty() || rows.target.size() == rows.x.size()));
    batch_ = rows;
    // Several screens of one batch share its integers.
    if (batch_.number == 0) batch_.number = --unnumbered_;
    rows_ = rows.count;
    mask_ = {};
    take_rows(0, rows_);
    if (sae.transcoder && target_.size() < centered_.size()) target_.reset(centered_.size());
    if (!sae.transcoder) target_.reset(0);
    const float* bias = sae.transcoder ? no_bias_.data() : sae.b_dec.data();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = 0; b < rows_; ++b) {
        centered_norm_[static_cast<std::size_t>(b)] =
            std::sqrt(kernels_.subtract(rows.x.data() + b * n_, bias, n_, xc(b)));
        centered_tiles_.store(b, xc(b));
        if (sae.transcoder) kernels_.subtract(output_row(b), sae.b_dec.data(), n_, target_.data() + b * n_);
    }
    if (!sae.skip) return;
    // Blocks of fixed size, each one product of one thread, so that no sum depends on the number of threads.
    constexpr std::int64_t block = 64;
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t first = 0; first < rows_; first += block) {
        const std::int64_t count = std::min(block, rows_ - first);
        multiply('N', 'N', count, n_, n_, -1, xc(first), sae.w_skip.data(), 1, target_.data() + first * n_);
    }
}

void CpuDevice::join(Communicator* group) {
    group_ = group;
    host_ = {};
}

void CpuDevice::mask(const Mask& mask) {
    mask_ = mask;
}

void CpuDevice::take_rows(std::int64_t first, std::int64_t last) {
    STRATA_ASSERT((first % range_rows == 0 || first == last) && first <= last && last <= rows_);
    first_row_ = first;
    last_row_ = last;
}

std::size_t CpuDevice::workspace_bytes() const {
    std::size_t bytes = (centered_.size() + target_.size() + centered_tiles_.size()) * sizeof(float) +
                        partial_.size() * sizeof(double);
    const auto pairs = [](const PairsByRow& p) {
        return p.begin.capacity() * sizeof(std::uint32_t) + p.latent.size() * sizeof(std::uint32_t) +
               p.value.size() * sizeof(float);
    };
    bytes += subset_.w_enc.size * sizeof(float) + screen_bytes(screen_) + pairs(candidates_) +
             counts_.capacity() * sizeof(std::uint32_t);
    for (const CodeTable& c : codes_)
        bytes += pairs(c.pairs) + c.gradient.size() * sizeof(float) + c.by_latent.bytes();
    for (const CodeTable& c : codes_)
        for (const Tiles& tiles : c.residual) bytes += tiles.size() * sizeof(float);
    for (const HostBatch::Set& set : host_.sets) bytes += set.codes.bytes();
    if (group_ != nullptr && group_->rank() == 0)
        for (const std::span<std::byte> shared : host_.memory.of_rank) bytes += shared.size();
    for (const RowBlock& b : blocks_) bytes += (b.latent.capacity() + b.value.capacity()) * sizeof(float);
    for (const Scratch& s : scratch_)
        bytes += (s.product.size() + s.latent.capacity() + s.value.capacity()) * sizeof(float) +
                 s.found.bytes() + s.kept.bytes();
    return bytes;
}

std::unique_ptr<Device> make_cpu_device(int threads, const CpuOptions& options) {
    if (options.encoder == "tf32")
        refuse("run.encoder: tf32 is for GPUs, and this is the CPU device; use auto");
    if (options.encoder == "screened" && screen_kernels() == nullptr)
        refuse("run.encoder: screened needs a CPU with AVX2, and this one has none; use auto");
    return std::make_unique<CpuDevice>(threads, options);
}

}  // namespace strata::device
