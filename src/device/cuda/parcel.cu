#include "device/cuda/parcel.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device/cuda/device_code.h"

namespace strata::device::cuda {

__device__ inline float as_float(float v) {
    return v;
}
__device__ inline float as_float(__half v) {
    return __half2float(v);
}
__device__ inline float as_float(__nv_bfloat16 v) {
    return __bfloat162float(v);
}

// Both are exact but for the product's rounding, which is the CPU's. Reads 2 or 4 bytes an element, writes 4.
template <typename T>
__global__ void convert_rows(const T* from, std::int64_t count, float scale, float* to) {
    const std::int64_t i = global_thread();
    if (i < count) to[i] = as_float(from[i]) * scale;
}

namespace {

constexpr const char* of_batch = "a batch";

// x, or the targets: in host memory, and in the GPU's.
struct Part {
    Element type;
    DeviceArray<std::byte> arrived{of_batch};
    PinnedMemory host;

    Part(Element type_, std::int64_t elements)
        : type(type_), host(static_cast<std::size_t>(elements) * size_of(type_), of_batch) {
        arrived.grow(std::ssize(host.bytes()));
    }
    void copy(std::int64_t elements, cudaStream_t stream) {
        const auto bytes = static_cast<std::size_t>(elements) * size_of(type);
        upload(std::span<const std::byte>(host.bytes()).first(bytes), arrived.data(), stream, of_batch);
    }
    void convert(Slice elements, float scale, float* to, cudaStream_t stream) const {
        const std::int64_t count = elements.last - elements.first;
        const auto as = [&](auto element) {
            using T = decltype(element);
            launch("convert_rows", convert_rows<T>, blocks_of(count, block_threads), block_threads, 0, stream,
                   reinterpret_cast<const T*>(arrived.data()) + elements.first, count, scale, to);
        };
        if (type == Element::float16)
            as(__half{});
        else if (type == Element::bfloat16)
            as(__nv_bfloat16{});
        else
            as(0.0F);
    }
};

class CudaParcel final : public Parcel {
  public:
    CudaParcel(int ordinal, cudaStream_t copies, const ParcelShape& shape)
        : ordinal_(ordinal), copies_(copies), n_(shape.n), x_(shape.x, shape.rows * shape.n) {
        if (shape.target) target_.emplace(*shape.target, shape.rows * shape.n);
    }
    // Memory that a copy reads must stay until then.
    ~CudaParcel() override { cudaEventSynchronize(arrived_); }

    std::span<std::byte> x() const override { return x_.host.bytes(); }
    std::span<std::byte> target() const override {
        return target_ ? target_->host.bytes() : std::span<std::byte>();
    }

    void send(std::int64_t count, float scale) override {
        use_gpu();
        count_ = count;
        scale_ = scale;
        taken_.hold(copies_, of_batch);
        x_.copy(count * n_, copies_);
        if (target_) target_->copy(count * n_, copies_);
        arrived_.record(copies_, of_batch);
    }
    void wait() override {
        use_gpu();
        check(cudaEventSynchronize(arrived_), "cudaEventSynchronize", of_batch);
    }

    void take(Slice rows, float* x, float* target, cudaStream_t stream) const {
        require(rows.last <= count_, "rows that were sent");
        const Slice elements{rows.first * n_, rows.last * n_};
        arrived_.hold(stream, of_batch);
        x_.convert(elements, scale_, x, stream);
        if (target_) target_->convert(elements, scale_, target, stream);
        taken_.record(stream, of_batch);
    }

  private:
    // CUDA would take a thread that has not said so for one of GPU 0, and take memory there.
    void use_gpu() const { check(cudaSetDevice(ordinal_), "cudaSetDevice", of_batch); }

    int ordinal_;
    cudaStream_t copies_;
    std::int64_t n_, count_ = 0;
    float scale_ = 1;
    Part x_;
    std::optional<Part> target_;
    Event arrived_, taken_;  // in the GPU's memory; as float32 in the device's own
};

}  // namespace

std::unique_ptr<Parcel> make_parcel(int ordinal, cudaStream_t copies, const ParcelShape& shape) {
    return std::make_unique<CudaParcel>(ordinal, copies, shape);
}

void take_parcel(const Parcel& parcel, Slice rows, float* x, float* target, cudaStream_t stream) {
    dynamic_cast<const CudaParcel&>(parcel).take(rows, x, target, stream);
}

}  // namespace strata::device::cuda
