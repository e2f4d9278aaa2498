#include <algorithm>
#include <vector>

#include "comm/device_sums.h"
#include "device/device.h"

namespace strata {
namespace {

class StagedSums final : public DeviceSums {
  public:
    StagedSums(Communicator& comm, device::Device& device) : comm_(comm), device_(device) {}

    void add(std::span<const std::span<float>> tensors) override {
        for (const std::span<float> tensor : tensors) {
            if (tensor.empty()) continue;
            if (copy_.size() < tensor.size()) copy_.resize(tensor.size());
            const std::span<float> part = std::span(copy_).first(tensor.size());
            device_.download(tensor.data(), std::as_writable_bytes(part));
            comm_.sum(part);
            device_.upload(std::as_bytes(part), tensor.data());
        }
    }
    void finish() override {}

  private:
    Communicator& comm_;
    device::Device& device_;
    std::vector<float> copy_;  // of the longest tensor so far
};

}  // namespace

std::unique_ptr<DeviceSums> make_staged_sums(Communicator& comm, device::Device& device) {
    return std::make_unique<StagedSums>(comm, device);
}

}  // namespace strata
