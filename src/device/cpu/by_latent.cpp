#include "device/cpu/by_latent.h"

namespace strata::device {

TileView TileView::of_shape(std::int64_t rows, std::int64_t n) {
    // Half of the L2 of a present-day core (2 MiB; 1 MiB at the least) may be taken by one tile.
    constexpr std::int64_t tile_bytes = std::int64_t{1} << 20;
    TileView view{.data = nullptr, .rows = rows, .n = n, .width = 64};
    while (view.width > 16 && rows * view.width * static_cast<std::int64_t>(sizeof(float)) > tile_bytes)
        view.width /= 2;
    return view;
}

void TileView::store(std::int64_t row, const float* values) const {
    for (std::int64_t t = 0; t < count(); ++t) std::copy_n(values + t * width, valid(t), at(t, row));
}

void TileView::load(std::int64_t row, float* values) const {
    for (std::int64_t t = 0; t < count(); ++t) std::copy_n(at(t, row), valid(t), values + t * width);
}

void Tiles::reset(std::int64_t rows_, std::int64_t n_) {
    static_cast<TileView&>(*this) = of_shape(rows_, n_);
    own.reset(size());
    data = own.data();
}

void ByLatent::grow(std::size_t codes) {
    row.grow(codes);
    value.grow(codes);
    gradient.grow(codes);
}

std::size_t ByLatent::bytes() const {
    return begin.capacity() * sizeof(std::uint32_t) + row.size() * sizeof(std::uint32_t) +
           (value.size() + gradient.size()) * sizeof(float);
}

}  // namespace strata::device
