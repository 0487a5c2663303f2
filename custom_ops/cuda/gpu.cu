// Queries the GPU, and reads its memory when a node is created.
#include "device.cuh"

#ifdef RESQ_SIMT
#include <cstdlib>
#include <cstring>
#endif

namespace resq::cuda {

#ifdef RESQ_SIMT

// RESQ_SIMT_CAPABILITY chooses the simulated GPU.
Gpu this_gpu(const char**) {
    const char* capability = std::getenv("RESQ_SIMT_CAPABILITY");
    return {capability == nullptr ? 90 : std::atoi(capability), 99 * 1024};
}

const char* read_back(void* target, const void* source, std::size_t bytes) {
    if (bytes > 0) {
        std::memcpy(target, source, bytes);
    }
    return nullptr;
}

#else

Gpu this_gpu(const char** error) {
    Queue queue{nullptr};
    int device = 0, major = 0, minor = 0, shared = 0;
    note(cudaGetDevice(&device), queue);
    note(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), queue);
    note(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), queue);
    note(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), queue);
    *error = queue.error;
    return {10 * major + minor, static_cast<std::size_t>(shared)};
}

const char* read_back(void* target, const void* source, std::size_t bytes) {
    Queue queue{nullptr};
    note(cudaMemcpy(target, source, bytes, cudaMemcpyDeviceToHost), queue);
    return queue.error;
}

#endif

}  // namespace resq::cuda
