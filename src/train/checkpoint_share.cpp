#include "train/checkpoint_share.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace strata::train {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t header_bytes = 4096;  // a page; the dozen tensors of an SAE take less

device::Tensors& tensors_of(TrainedSae& sae, std::size_t set) {
    return set == 0 ? sae.parameters : set == 1 ? sae.first : sae.second;
}

// The tensors of a share as they are on disk. Called with where each lies, for writing or reading: vectors by
// latent in the slice, matrices too but for latents before those that `t` holds, the others whole and with
// the first rank.
template <typename Visit>
void visit_share(device::Tensors& t, Slice slice, bool first_rank, const Visit& visit) {
    const std::int64_t count = slice.last - slice.first;
    visit("w_enc", t.enc(std::max(slice.first, t.first)), std::vector{count, t.n});
    visit("w_dec", t.dec(std::max(slice.first, t.first)), std::vector{count, t.n});
    visit("b_enc", t.b_enc.data() + slice.first, std::vector{count});
    for (std::int64_t p = 0; p < t.per_latent; ++p)
        visit(fmt::format("latent.{}", p), t.latent.data() + p * t.width + slice.first, std::vector{count});
    if (!first_rank) return;
    visit("b_dec", t.b_dec.data(), std::vector{t.n});
    if (t.skip) visit("w_skip", t.w_skip.data(), std::vector{t.n, t.n});
}

// What else a latent has, beside its parameters.
template <typename Visit>
void visit_states(TrainedSae& sae, Slice slice, const Visit& visit) {
    const auto part = [&](auto& values) {
        return std::as_writable_bytes(std::span(values).subspan(
            static_cast<std::size_t>(slice.first), static_cast<std::size_t>(slice.last - slice.first)));
    };
    visit("silent", "U64", part(sae.silent));
    if (!sae.config.atm) return;
    visit("atm_activation", "F64", part(sae.atm.activation));
    visit("atm_frequency", "F64", part(sae.atm.frequency));
    visit("atm_contribution", "F64", part(sae.atm.contribution));
}

std::int64_t elements_of(const std::vector<std::int64_t>& shape) {
    std::int64_t size = 1;
    for (const std::int64_t extent : shape) size *= extent;
    return size;
}

// A tensor's bytes; RunError unless it is of this type and shape.
std::span<const std::byte> bytes_of(const safetensors::File& file, const std::string& name, const char* dtype,
                                    const std::vector<std::int64_t>& shape) {
    const safetensors::Tensor& tensor = file.tensor(name);
    if (tensor.dtype != dtype || tensor.shape != shape)
        fail("{}: tensor '{}' is {} [{}], expected {} [{}]; it belongs to another run", file.path.string(),
             name, tensor.dtype, fmt::join(tensor.shape, ", "), dtype, fmt::join(shape, ", "));
    return tensor.data;
}

}  // namespace

fs::path file_of(const fs::path& folder, const std::string& sae, std::size_t set, int rank, int ranks) {
    return folder / fmt::format("{}.{}.rank-{}-of-{}.safetensors", sae, set_names[set], rank, ranks);
}

void stage_share(const fs::path& path, TrainedSae& sae, std::size_t set, device::Device& device, Slice slice,
                 int rank, Array<std::byte>& bytes, std::vector<safetensors::Tensor>& tensors) {
    const auto visit_parts = [&](const auto& part) {
        visit_share(tensors_of(sae, set), slice, rank == 0,
                    [&](const std::string& name, const float* from, const std::vector<std::int64_t>& shape) {
                        part(name, "F32", shape, [&](std::span<std::byte> to) { device.download(from, to); });
                    });
        if (set != 0) return;
        visit_states(sae, slice, [&](const char* name, const char* type, std::span<const std::byte> from) {
            part(name, type, std::vector{slice.last - slice.first},
                 [&](std::span<std::byte> to) { std::ranges::copy(from, to.begin()); });
        });
    };
    const auto bytes_of_part = [](const char* type, const std::vector<std::int64_t>& shape) {
        return static_cast<std::size_t>(elements_of(shape)) * safetensors::size_of(type);
    };
    std::size_t size = header_bytes;
    visit_parts([&](const std::string&, const char* type, const std::vector<std::int64_t>& shape,
                    const auto&) { size += bytes_of_part(type, shape); });
    bytes.grow(size);
    std::byte* at = bytes.data() + header_bytes;
    tensors.clear();
    visit_parts([&](const std::string& name, const char* type, const std::vector<std::int64_t>& shape,
                    const auto& fetch) {
        const std::span<std::byte> room = {at, bytes_of_part(type, shape)};
        fetch(room);
        tensors.push_back({name, type, shape, room});
        at += room.size();
    });
    const std::string header = safetensors::header_of(path, tensors, {}, header_bytes);
    STRATA_ASSERT(header.size() == header_bytes);
    std::ranges::copy(std::as_bytes(std::span(header)), bytes.data());
}

void read_share(const fs::path& path, TrainedSae& sae, std::size_t set, device::Device& device, Slice slice,
                int rank, Slice mine, std::uint32_t expected) {
    device::Tensors& t = tensors_of(sae, set);
    const safetensors::File file = safetensors::read(path);
    std::uint32_t crc = 0;
    visit_share(t, slice, rank == 0,
                [&](const std::string& name, float* to, const std::vector<std::int64_t>& shape) {
                    const std::span<const std::byte> bytes = bytes_of(file, name, "F32", shape);
                    crc = checksum(bytes, crc);
                    if (name != "w_enc" && name != "w_dec") {
                        device.upload(bytes, to);
                        return;
                    }
                    const std::int64_t first = std::max(slice.first, mine.first);
                    const std::int64_t last = std::min(slice.last, mine.last);
                    const std::int64_t row = t.n * static_cast<std::int64_t>(sizeof(float));
                    if (first < last)
                        device.upload(bytes.subspan(static_cast<std::size_t>((first - slice.first) * row),
                                                    static_cast<std::size_t>((last - first) * row)),
                                      to + (first - std::max(slice.first, t.first)) * t.n);
                });
    if (set == 0)
        visit_states(sae, slice, [&](const char* name, const char* type, std::span<std::byte> to) {
            const std::span<const std::byte> bytes = bytes_of(file, name, type, {slice.last - slice.first});
            crc = checksum(bytes, crc);
            std::ranges::copy(bytes, to.begin());
        });
    if (crc != expected)
        fail("{}: the checksum of its values is {:08x}, the manifest has {:08x}; the file is damaged",
             path.string(), crc, expected);
}

}  // namespace strata::train
