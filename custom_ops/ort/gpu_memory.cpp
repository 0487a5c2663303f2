// Memory from ONNX Runtime, properties of the GPU from CUDA.
#include "gpu_memory.hpp"

#include <string>

namespace resq::ort {

Device::Device(const NodeInfo& node) {
    const char* error = nullptr;
    gpu_ = cuda::this_gpu(&error);
    check(error);
    allocator_ = node.allocator();
}

Device::~Device() { function<ReleaseAllocator>(api())(allocator_); }

Lease::Lease(const Device& device, const NodeContext& context, std::size_t bytes)
    : allocator_(device.allocator()),
      data_(bytes > 0 ? context.memory(allocator_, bytes) : nullptr) {}

Lease::~Lease() {
    if (data_ != nullptr) {
        function<ReleaseStatus>(api())(function<AllocatorFree>(api())(allocator_, data_));
    }
}

void check(const char* error) {
    if (error != nullptr) {
        throw Refusal{std::string("CUDA: ") + error};
    }
}

}  // namespace resq::ort
