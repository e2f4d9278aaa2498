#include "strata/sae.h"

#include <omp.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "comm/self.h"
#include "device/gpu.h"
#include "eval/saved.h"
#include "formats/saelens.h"
#include "sae/sae.h"

namespace strata {

struct Sae::State {
    std::unique_ptr<device::Device> device;
    eval::UsableSae sae;
    std::int64_t prepared = 0;  // rows there is room for
    // In host memory, where codes are decoded; copies of what it cannot read in place.
    std::span<const float> w_dec, b_dec, w_skip;
    std::array<std::vector<std::byte>, 3> copies;
};

Sae::Sae(std::unique_ptr<State> state) : state_(std::move(state)) {}
Sae::Sae(Sae&&) noexcept = default;
Sae& Sae::operator=(Sae&&) noexcept = default;
Sae::~Sae() = default;

std::int64_t Sae::n() const {
    return state_->sae.parameters.n;
}

std::int64_t Sae::width() const {
    return state_->sae.parameters.width;
}

Codes Sae::encode(std::span<const float> rows) const {
    if (std::ssize(rows) % n() != 0)
        fail("encode: {} values are no whole number of rows of {}", rows.size(), n());
    const std::int64_t count = std::ssize(rows) / n();
    const eval::UsableSae& sae = state_->sae;
    if (count > state_->prepared) {
        state_->device->prepare(count, n(), width(), count * 64);
        state_->prepared = count;
    }
    state_->device->center({rows, count}, sae.parameters);
    sae::apply_inference(*state_->device, sae.parameters, sae.row_top, sae.k, sae.thresholds);
    Codes codes;
    state_->device->read_codes(codes.begin, codes.latent, codes.value);
    return codes;
}

std::vector<float> Sae::decode(const Codes& codes, std::span<const float> rows_in) const {
    const std::int64_t count = std::ssize(codes.begin) - 1;
    if (count < 0 || codes.begin.back() != codes.latent.size() || codes.latent.size() != codes.value.size() ||
        !std::ranges::is_sorted(codes.begin))
        fail("decode: begin, latent and value do not fit each other");
    if (std::ranges::any_of(codes.latent, [&](std::uint32_t j) { return j >= width(); }))
        fail("decode: a latent beyond the SAE's {}", width());
    const device::Tensors& parameters = state_->sae.parameters;
    if (parameters.skip && std::ssize(rows_in) != count * n())
        fail("decode: this transcoder has a skip connection and needs the {} rows that were encoded", count);
    std::vector<float> rows(static_cast<std::size_t>(count * n()));
#pragma omp parallel for schedule(static)
    for (std::int64_t b = 0; b < count; ++b) {
        const std::uint32_t begin = codes.begin[static_cast<std::size_t>(b)];
        const std::uint32_t end = codes.begin[static_cast<std::size_t>(b) + 1];
        float* row = rows.data() + b * n();
        std::ranges::copy(state_->b_dec, row);
        for (std::int64_t i = 0; parameters.skip && i < n(); ++i)
            for (std::int64_t c = 0; c < n(); ++c)
                row[c] += rows_in[static_cast<std::size_t>(b * n() + i)] *
                          state_->w_skip[static_cast<std::size_t>(i * n() + c)];
        for (std::uint32_t e = begin; e < end; ++e) {
            const float* direction = state_->w_dec.data() + codes.latent[e] * n();
            for (std::int64_t c = 0; c < n(); ++c) row[c] += codes.value[e] * direction[c];
        }
    }
    return rows;
}

Sae load_sae(const std::string& folder) {
    auto state = std::make_unique<Sae::State>();
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    state->device = device::make_device(*alone, {"auto", omp_get_max_threads(), {}});
    state->sae = eval::upload(*state->device, saelens::read(folder));
    const device::Tensors& t = state->sae.parameters;
    const auto view = [&](const device::Memory<float>& tensor, std::size_t copy) {
        const std::span<const std::byte> bytes =
            state->device->view(tensor.data(), tensor.size * sizeof(float), state->copies[copy]);
        return std::span(reinterpret_cast<const float*>(bytes.data()), tensor.size);
    };
    state->w_dec = view(t.w_dec, 0);
    state->b_dec = view(t.b_dec, 1);
    state->w_skip = view(t.w_skip, 2);
    return Sae(std::move(state));
}

}  // namespace strata
