// Memory, and what needs no kernel of its own.

#include "device/cuda/cuda_device.h"

#include <limits>

#include "base/error.h"
#include "device/cuda/parcel.h"

namespace strata::device {

using namespace cuda;

namespace {

int use(int ordinal) {
    check(cudaSetDevice(ordinal), "cudaSetDevice", "the device");
    return ordinal;
}

// Their numbers have 32 bits, and a kernel's threads step beyond the last one by a block.
constexpr std::uint64_t most_pairs = std::numeric_limits<std::uint32_t>::max() - 1024;

Format format_of(const GpuOptions& options) {
    if (options.product == "float32") return Format::float32;
    return options.product == "tf32" ? Format::tf32 : Format::bf16;
}

}  // namespace

CudaDevice::CudaDevice(int ordinal, const GpuOptions& options, ProductTile tile)
    : ordinal_(use(ordinal)), format_(format_of(options)), tile_(tile), product_(tile.operand) {}

std::string CudaDevice::name() const {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties", "the device");
    return fmt::format("cuda {}, {}, {} product", ordinal_, properties.name, name_of(format_));
}

void* CudaDevice::allocate(std::size_t bytes) {
    if (bytes == 0) return nullptr;
    void* p = nullptr;
    check(cudaMalloc(&p, bytes), "cudaMalloc", "a tensor", bytes);
    check(cudaMemsetAsync(p, 0, bytes, stream_), "cudaMemsetAsync", "a tensor", bytes);
    return p;
}

void CudaDevice::release(void* p, std::size_t) {
    cudaFree(p);
}

void CudaDevice::upload(std::span<const std::byte> from, void* to) {
    cuda::upload(from, static_cast<std::byte*>(to), stream_, "a tensor");
    stream_.wait("a tensor");
}

void CudaDevice::download(const void* from, std::span<std::byte> to) {
    cuda::download(static_cast<const std::byte*>(from), to, stream_, "a tensor");
}

std::span<const std::byte> CudaDevice::view(const void* from, std::size_t size,
                                            std::vector<std::byte>& copy) {
    copy.resize(size);
    download(from, copy);
    return copy;
}

void CudaDevice::prepare(std::int64_t rows, std::int64_t n, std::int64_t width, std::int64_t codes) {
    n_ = n;
    capacity_ = rows;
    room_ = hold_at_most_ > 0 ? std::min(hold_at_most_, rows) : rows;
    batch_ = {};
    input_.grow(room_ * n);
    centered_.grow(room_ * n);
    row_errors_.grow(room_);
    sums_of_rows(CodeSet::main).by_row.grow(row_numbers * rows);
    row_counts_.grow(rows + 1);
    product_tile_.grow(std::min(tile_.rows, room_) * std::min(tile_.latents, width));
    latent_errors_.grow(width);
    half_weights_.grow(format_ == Format::bf16 ? width * n : 0);
    list_room_ = std::max(list_room_, 4 * codes / std::max<std::int64_t>(rows, 1) + 64);
    candidates_.make_room(rows, 2 * codes);
    CodeTable& main = table(CodeSet::main);
    main.pairs.make_room(rows, codes);
    main.gradient.grow(codes);
    main.latent_begin.grow(width + 1);
    main.residual.grow(room_ * n);
    counters_.grow(2048);
    fired_.grow((width + 31) / 32);
    column_sums_.grow(n);
    make_room_for_norms(1);
}

std::unique_ptr<Parcel> CudaDevice::make_parcel(const ParcelShape& shape) {
    return cuda::make_parcel(ordinal_, copies_, shape);
}

void CudaDevice::mask(const Mask& mask) {
    has_mask_ = !mask.empty();
    if (!has_mask_) return;
    cuda::upload(mask.draw, mask_draw_, stream_);
    cuda::upload(mask.probability, mask_probability_, stream_);
}

DeviceMask CudaDevice::device_mask(bool wanted) const {
    return has_mask_ && wanted ? DeviceMask{mask_draw_.data(), mask_probability_.data()}
                               : DeviceMask{nullptr, nullptr};
}

Groups CudaDevice::groups_of(const Shape& shape) const {
    if (shape.groups() > most_groups)
        fail("{} prefixes; the CUDA device takes at most {}", shape.groups(), most_groups);
    Groups groups{};
    groups.count = static_cast<int>(shape.groups());
    for (std::int64_t g = 0; g < shape.groups(); ++g) groups.end[g] = shape.group_end(g);
    return groups;
}

std::uint32_t CudaDevice::pairs_in(const Pairs& pairs) {
    std::uint32_t count = 0;
    cuda::download(pairs.begin.data() + rows_, std::span(&count, 1), stream_, "the number of pairs");
    return count;
}

void CudaDevice::candidate_values(std::vector<float>& values) {
    const std::size_t before = values.size();
    values.resize(before + pairs_in(candidates_));
    cuda::download(candidates_.value.data(), std::span(values).subspan(before), stream_, "the candidates");
}

void CudaDevice::read_codes(std::vector<std::uint32_t>& begin, std::vector<std::uint32_t>& latent,
                            std::vector<float>& value) {
    const Pairs& pairs = table(CodeSet::main).pairs;
    begin.resize(static_cast<std::size_t>(rows_) + 1);
    cuda::download(pairs.begin.data(), std::span(begin), stream_, "the codes");
    latent.resize(begin.back());
    value.resize(begin.back());
    cuda::download(pairs.latent.data(), std::span(latent), stream_, "the codes");
    cuda::download(pairs.value.data(), std::span(value), stream_, "the codes");
}

// As often as it takes to have room for all that pass; false beyond `limit` of them (0: none).
bool CudaDevice::screen_rows(const Screen& screen, std::int64_t limit) {
    bound_errors(screen);
    for (;;) {
        std::uint32_t longest = 0;
        const std::uint64_t total = screen_rows_once(screen, longest);
        if (longest > list_room_) {
            list_room_ = std::max<std::int64_t>(longest, 5 * list_room_ / 4);
            continue;
        }
        if (limit > 0 && total > static_cast<std::uint64_t>(limit)) return false;
        if (total > most_pairs)
            fail("{} candidates in one batch of {} rows; reduce k or train.batch_size", total, rows_);
        candidates_.most = static_cast<std::int64_t>(total);
        if (candidates_.most <= candidates_.value.size()) return true;
        candidates_.make_room(capacity_, candidates_.most);
    }
}

bool CudaDevice::screen_above(const Tensors& sae, std::span<const float> at_least, std::int64_t limit) {
    STRATA_ASSERT(at_least.size() == 1 || std::ssize(at_least) == sae.width);
    cuda::upload(at_least, at_least_, stream_);
    return screen_rows({.at_least = {at_least_.data(), at_least.size()},
                        .w_enc = sae.w_enc.data(),
                        .b_enc = sae.b_enc.data(),
                        .latents = sae.width},
                       limit);
}

// Those in counters_.
void CudaDevice::download_counts(std::span<std::uint64_t> counts) {
    static_assert(sizeof(std::uint64_t) == sizeof(unsigned long long));
    cuda::download(reinterpret_cast<const std::uint64_t*>(counters_.data()), counts, stream_, "counts");
}

void CudaDevice::centered_row(std::int64_t b, std::span<float> row) {
    const std::int64_t first = b / room_ * room_;  // others that are asked for are there then
    hold({first, std::min(first + room_, rows_)});
    cuda::download(row_of(centered_, b), row, stream_, "a row");
}

std::size_t CudaDevice::workspace_bytes() const {
    std::size_t bytes = product_.bytes() + candidates_.bytes() + other_candidates_.bytes();
    for (const CodeTable& codes : codes_) bytes += codes.bytes();
    for (const SumsOfRows& sums : sums_of_rows_) bytes += sums.by_row.bytes() + sums.all.bytes();
    const auto add = [&](const auto&... arrays) { bytes += (arrays.bytes() + ...); };
    add(input_, output_, b_dec_, centered_, target_, mask_draw_, mask_probability_, product_tile_, half_rows_,
        half_weights_, row_errors_, latent_errors_, at_least_, row_limit_, open_limit_, list_latent_,
        list_value_, list_used_, sample_, subset_weights_, subset_bias_, subset_, counters_, taken_,
        row_counts_, latent_counts_, latent_totals_, scan_sums_, fired_, selection_, all_counters_,
        latent_sums_, bias_sums_, other_along_, along_sums_, value_sums_, along_, gate_threshold_, gate_gain_,
        gate_offset_, gate_penalty_, last_tie_, tie_begin_, set_numbers_, shrink_, square_weight_,
        dense_sums_, partial_, parts_, column_sums_, sums_, norms_, gradient_norm_, z_, code_, gate_, dots_,
        frozen_dots_, block_residual_, gate_residual_);
    return bytes;
}

std::unique_ptr<Device> make_cuda_device(int ordinal, const GpuOptions& options) {
    return std::make_unique<CudaDevice>(ordinal, options);
}

}  // namespace strata::device
