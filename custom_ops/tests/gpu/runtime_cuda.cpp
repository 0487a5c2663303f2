// CUDA's runtime.
#include <cuda_runtime_api.h>

#include "runtime.hpp"

namespace resq::tests::gpu {
namespace {

void check(cudaError_t status) {
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // later calls would return it again
        throw OutOfMemory(cudaGetErrorString(status));
    }
    if (status != cudaSuccess) {
        throw Failure(cudaGetErrorString(status));
    }
}

cudaStream_t cast(void* stream) { return static_cast<cudaStream_t>(stream); }

// Released memory stays in the pool: a case then costs microseconds.
void keep_memory() {
    cudaMemPool_t pool;
    check(cudaDeviceGetDefaultMemPool(&pool, 0));
    std::uint64_t all = UINT64_MAX;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all));
}

class Event {
  public:
    Event() { check(cudaEventCreate(&event_)); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    ~Event() { cudaEventDestroy(event_); }
    operator cudaEvent_t() const { return event_; }

  private:
    cudaEvent_t event_ = nullptr;
};

}  // namespace

Stream::Stream() {
    keep_memory();
    cudaStream_t stream;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    stream_ = stream;
}
Stream::~Stream() { cudaStreamDestroy(cast(stream_)); }

void* Stream::allocate(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMallocAsync(&memory, bytes > 0 ? bytes : 1, cast(stream_)));
    return memory;
}
void Stream::release(void* memory) { cudaFreeAsync(memory, cast(stream_)); }
void Stream::fill(void* memory, int byte, std::size_t bytes) {
    check(cudaMemsetAsync(memory, byte, bytes, cast(stream_)));
}
void Stream::upload(void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cast(stream_)));
}
void Stream::copy(void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cast(stream_)));
}
void Stream::download(void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cast(stream_)));
    wait();
}
void Stream::wait() { check(cudaStreamSynchronize(cast(stream_))); }

void Stream::launch(const std::function<void(cuda::Queue&)>& work) {
    cuda::Queue queue{stream_};
    work(queue);
    if (queue.error != nullptr) {
        throw Failure(queue.error);
    }
}

double Stream::time(const std::function<void()>& work) {
    const Event begin, end;
    check(cudaEventRecord(begin, cast(stream_)));
    work();
    check(cudaEventRecord(end, cast(stream_)));
    check(cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    return static_cast<double>(milliseconds);
}

Graph::Graph(Stream& stream, const std::function<void()>& work) : stream_(stream) {
    check(cudaStreamBeginCapture(cast(stream.stream_), cudaStreamCaptureModeThreadLocal));
    work();
    cudaGraph_t graph;
    check(cudaStreamEndCapture(cast(stream.stream_), &graph));
    cudaGraphExec_t executable;
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    check(status);
    graph_ = executable;
}
Graph::~Graph() { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_)); }
void Graph::launch() {
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), cast(stream_.stream_)));
}

Device device() {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0));
    Device found;
    found.name = properties.name;
    found.capability = 10 * properties.major + properties.minor;
    found.cache_bytes = static_cast<std::size_t>(properties.l2CacheSize);
    std::size_t total = 0;
    check(cudaMemGetInfo(&found.free_bytes, &total));
    return found;
}

}  // namespace resq::tests::gpu
