// CUDA's runtime over simt/: launches run at once, on this CPU, and there is no clock.
#include <cstring>
#include <new>

#include "runtime.hpp"

namespace resq::tests::gpu {
namespace {

// As cudaMalloc aligns memory, in bytes.
constexpr std::align_val_t kAlignment{256};

// What every measurement finds.
constexpr double kMilliseconds = 1.0;

}  // namespace

Stream::Stream() = default;
Stream::~Stream() = default;

void* Stream::allocate(std::size_t bytes) { return ::operator new(bytes, kAlignment); }
void Stream::release(void* memory) { ::operator delete(memory, kAlignment); }
void Stream::fill(void* memory, int byte, std::size_t bytes) {
    if (bytes > 0) {
        std::memset(memory, byte, bytes);
    }
}
void Stream::copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) {
        std::memcpy(to, from, bytes);
    }
}
void Stream::upload(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
void Stream::download(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
void Stream::wait() {}

void Stream::launch(const std::function<void(cuda::Queue&)>& work) {
    cuda::Queue queue{stream_};
    work(queue);
}

double Stream::time(const std::function<void()>& work) {
    work();
    return kMilliseconds;
}

Graph::Graph(Stream& stream, const std::function<void()>& work) : stream_(stream), work_(work) {}
Graph::~Graph() = default;
void Graph::launch() { work_(); }

Device device() {
    Device found;
    found.name = "simt, this CPU";
    const char* error = nullptr;
    found.capability = cuda::this_gpu(&error).capability;
    found.free_bytes = std::size_t{1} << 30;
    found.has_clock = false;
    return found;
}

}  // namespace resq::tests::gpu
