// What compare_cuda uses of CUDA's runtime. Its twin over simt/ is runtime_simt.cpp.
#pragma once

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "resq/cuda.hpp"

namespace resq::tests::gpu {

// CUDA reported a failure.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};
// There is not as much free memory.
struct OutOfMemory : Failure {
    using Failure::Failure;
};

// A stream, and memory that is allocated and released in its order.
class Stream {
  public:
    Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream();

    void* allocate(std::size_t bytes);
    void release(void* memory);
    void fill(void* memory, int byte, std::size_t bytes);
    void upload(void* to, const void* from, std::size_t bytes);
    void copy(void* to, const void* from, std::size_t bytes);
    // Waits for all work of the stream.
    void download(void* to, const void* from, std::size_t bytes);
    void wait();

    // Runs work that launches kernels, and throws if one could not be launched.
    void launch(const std::function<void(cuda::Queue&)>& work);
    // Milliseconds that work takes on the GPU.
    double time(const std::function<void()>& work);

  private:
    friend class Graph;
    void* stream_ = nullptr;
};

// Launches that are captured once and replayed as one.
class Graph {
  public:
    Graph(Stream& stream, const std::function<void()>& work);
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    ~Graph();

    void launch();

  private:
    Stream& stream_;
    void* graph_ = nullptr;
    std::function<void()> work_;  // over simt/, where nothing is captured
};

// Memory that is released together.
class Memory {
  public:
    explicit Memory(Stream& stream) : stream_(stream) {}
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() {
        for (void* block : blocks_) {
            stream_.release(block);
        }
    }

    // Memory of exactly this size, filled with 0xFF, which is NaN in every type.
    template <typename T>
    T* make(std::size_t count) {
        blocks_.push_back(stream_.allocate(count * sizeof(T)));
        stream_.fill(blocks_.back(), 0xFF, count * sizeof(T));
        return static_cast<T*>(blocks_.back());
    }
    template <typename T>
    T* upload(const std::vector<T>& values) {
        T* copy = make<T>(values.size());
        stream_.upload(copy, values.data(), values.size() * sizeof(T));
        return copy;
    }
    template <typename T>
    std::vector<T> download(const T* from, std::size_t count) {
        std::vector<T> values(count);
        stream_.download(values.data(), from, count * sizeof(T));
        return values;
    }

    Stream& stream() { return stream_; }

  private:
    Stream& stream_;
    std::vector<void*> blocks_;
};

// What the program runs on.
struct Device {
    std::string name;
    int capability = 0;
    std::size_t cache_bytes = 0;  // of its L2 cache
    std::size_t free_bytes = 0;   // of its memory
    bool has_clock = true;        // whether times mean anything
};
Device device();

}  // namespace resq::tests::gpu
