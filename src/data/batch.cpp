#include "data/batch.h"

#include <hwy/cache_control.h>

#include "base/error.h"
#include "data/convert.h"

namespace strata::data {

BatchRoom::BatchRoom(device::Device* device, std::int64_t rows, std::int64_t n, Type x,
                     std::optional<Type> target, float scale)
    : n_(n), scale_(scale), x_{.type = x, .held = {}, .converted = {}} {
    if (target) target_.emplace(Part{.type = *target, .held = {}, .converted = {}});
    if (device != nullptr) parcel_ = device->make_parcel({rows, n, x, target});
    if (parcel_) {
        x_.held = parcel_->x();
        if (target_) target_->held = parcel_->target();
        return;
    }
    x_.converted.reset(static_cast<std::size_t>(rows * n));
    if (target_) target_->converted.reset(static_cast<std::size_t>(rows * n));
}

void BatchRoom::open() {
    if (parcel_) parcel_->wait();
}

void BatchRoom::put(std::int64_t i, std::span<const std::byte> x, std::span<const std::byte> target) {
    put(x_, i, x);
    if (target_) put(*target_, i, target);
}

void BatchRoom::put(Part& part, std::int64_t i, std::span<const std::byte> row) const {
    if (parcel_)
        copy_past_cache(row, part.held.subspan(static_cast<std::size_t>(i) * row.size(), row.size()));
    else
        to_float(part.type, row,
                 std::span<float>(part.converted)
                     .subspan(static_cast<std::size_t>(i * n_), static_cast<std::size_t>(n_)),
                 scale_);
}

void BatchRoom::send(std::int64_t rows) {
    rows_ = rows;
    if (!parcel_) return;
    hwy::FlushStream();  // stores past the cache keep no order, and the device reads without asking the core
    parcel_->send(rows, scale_);
}

Batch BatchRoom::batch(std::int64_t first, std::uint64_t number) const {
    Batch batch{.rows = rows_, .first = first, .number = number, .parcel = parcel_.get()};
    if (parcel_) return batch;
    const auto size = static_cast<std::size_t>(rows_ * n_);
    batch.x = std::span<const float>(x_.converted).first(size);
    if (target_) batch.target = std::span<const float>(target_->converted).first(size);
    return batch;
}

}  // namespace strata::data
