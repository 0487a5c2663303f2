// Scratch memory, freed when its thread ends.
#include "scratch.hpp"

#include <cstdlib>
#include <new>

namespace resq::ort {
namespace {

constexpr std::size_t kCacheLine = 64;

class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    void* at_least(std::size_t bytes) {
        if (bytes > size_) {
            std::free(data_);
            size_ = 0;
            const std::size_t rounded = (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
            data_ = std::aligned_alloc(kCacheLine, rounded);
            if (data_ == nullptr) {
                throw std::bad_alloc();
            }
            size_ = rounded;
        }
        return data_;
    }

  private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

thread_local Buffer buffers[static_cast<std::size_t>(ScratchUse::kCount)];

}  // namespace

void* scratch(ScratchUse use, std::size_t bytes) {
    return buffers[static_cast<std::size_t>(use)].at_least(bytes > 0 ? bytes : 1);
}

}  // namespace resq::ort
