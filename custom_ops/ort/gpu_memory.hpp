// Memory and launching on a GPU, for one call of a node.
#pragma once

#include <cstddef>

#include "operator.hpp"
#include "resq/cuda.hpp"

namespace resq::ort {

#ifdef RESQ_SIMT
constexpr const char* kGpuProvider = "CPUExecutionProvider";  // a CPU that acts as a GPU
#else
constexpr const char* kGpuProvider = "CUDAExecutionProvider";
#endif

// ONNX Runtime's allocator of where a node runs, and the GPU it is.
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

// Memory for one call. It is given back when the kernels that use it are in the stream: whoever
// gets it next comes after them.
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

// Throws what CUDA says of a call that failed; null where none did.
void check(const char* error);

}  // namespace resq::ort
