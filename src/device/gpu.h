#pragma once
// Which device a rank computes on: the CPU, or a GPU through the backend library (libstrata_cuda), which is
// opened when it is first asked for and lies beside this program's library, or where STRATA_GPU_BACKEND says.

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/device_sums.h"
#include "device/backend.h"
#include "device/device.h"

namespace strata::device {

// The GPUs of this host; where there are none, why.
const FoundGpus& find_gpus();

// "NCCL 2.28.9", or why it is not there.
std::string nccl_described();

struct DeviceOptions {
    std::string device = "auto";  // | cpu | cuda
    int threads = 1;              // of the rank
    CpuOptions cpu{};             // a GPU has the encoder from it too: screened is bf16 there
};

// The device of this rank. auto: a GPU if every rank finds one. Ranks of a host take its GPUs in turn, each
// one of its own. Collective; Ended, with one message, where cuda is demanded and a rank has none, or where a
// host has more ranks than GPUs.
std::unique_ptr<Device> make_device(Communicator& comm, const DeviceOptions& options);

// Bytes that nothing has taken yet, of a GPU; 0 of the CPU, whose memory the program counts itself.
std::int64_t free_memory(const Device& device);

// Sums over `comm` of the memory of a device that make_device() made: by NCCL, or, where a rank has none,
// through host memory. Null where the device's memory is the host's, which a communicator can sum itself, and
// for one rank. `limit`: seconds after which a sum that does not end is an error; 0: never. Collective.
std::unique_ptr<DeviceSums> make_device_sums(Communicator& comm, Device& device, double limit);

}  // namespace strata::device
