// GPU memory and errors, for the calls of a node.
#pragma once

#include <cstddef>

#include "operator.hpp"
#include "resq/cuda.hpp"

namespace resq::ort {

#ifdef RESQ_SIMT
constexpr const char* kGpuProvider = "CPUExecutionProvider";  // a CPU simulates the GPU
#else
constexpr const char* kGpuProvider = "CUDAExecutionProvider";
#endif

// The GPU on which a node runs, and ONNX Runtime's allocator for it.
class Device {
  public:
    explicit Device(const NodeInfo& node);
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    ~Device();

    Allocator* allocator() const { return allocator_; }
    const cuda::Gpu& gpu() const { return gpu_; }

  private:
    Allocator* allocator_;
    cuda::Gpu gpu_;
};

// Memory for one call. It is freed once the kernels that use it are in the stream: whatever uses it
// next runs after them.
class Lease {
  public:
    Lease(const Device& device, const NodeContext& context, std::size_t bytes);
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();

    template <typename T>
    T* as() const {
        return static_cast<T*>(data_);
    }

  private:
    Allocator* allocator_;
    void* data_;
};

// Throws CUDA's message, unless it is null.
void check(const char* error);

}  // namespace resq::ort
