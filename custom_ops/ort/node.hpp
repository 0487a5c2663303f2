// A node of the graph as its kernel sees it: attributes and constants when it is created, tensors
// and threads when it runs. Anything invalid is thrown as a Refusal.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <string>
#include <thread>

#include "abi.hpp"
#include "contention.hpp"
#include "resq/tensors.hpp"

namespace resq::ort {

// Why a node cannot be created or run. It becomes an OrtStatus and then a Python exception.
struct Refusal {
    std::string reason;
};

constexpr std::size_t kMaxRank = 8;

// A tensor's data and shape. `data` is null if an optional input is absent.
struct Tensor {
    void* data = nullptr;
    ElementType type = ElementType::kFloat;
    std::size_t rank = 0;
    std::array<std::int64_t, kMaxRank> dims{};

    explicit operator bool() const { return data != nullptr || rank > 0; }
    std::int64_t elements() const;
    std::string shape() const;  // such as "(2, 5, 64)"
};

// Throws a Refusal that says what was found and what was expected.
[[noreturn]] void refuse(const std::string& what, const std::string& found,
                         const std::string& expected);
[[noreturn]] void refuse(const std::string& what, std::int64_t found, const std::string& expected);

// Refuses a tensor of another shape; -1 stands for any size.
void check_shape(const char* name, const Tensor& tensor, std::initializer_list<std::int64_t> dims);

// A node while its kernel is created.
class NodeInfo {
  public:
    NodeInfo(const Api* api, const KernelInfo* info) : api_(api), info_(info) {}

    std::string name() const;
    bool has_input(std::size_t index) const;

    // An attribute, or the default if the node does not have it.
    std::int64_t integer(const char* attribute, std::int64_t otherwise) const;
    std::int64_t integer(const char* attribute) const;
    // A number of bits: 4 or 8.
    int bits(const char* attribute, int otherwise) const;
    float real(const char* attribute, float otherwise) const;
    float real(const char* attribute) const;
    std::string text(const char* attribute, const std::string& otherwise) const;

    // A constant of the model; an absent optional input gives an empty tensor.
    Tensor constant(std::size_t index, const char* input) const;
    Tensor required_constant(std::size_t index, const char* input) const;

    // The allocator for the device on which the node will run; the caller releases it.
    Allocator* allocator() const;

  private:
    const Api* api_;
    const KernelInfo* info_;
};

// A node while it runs.
class NodeContext {
  public:
    NodeContext(const Api* api, KernelContext* context) : api_(api), context_(context) {}

    Tensor input(std::size_t index) const;
    void* output(std::size_t index, const std::int64_t* dims, std::size_t rank) const;

    // The GPU's stream; null on a CPU.
    void* stream() const;
    // Memory for this call; the caller returns it to the allocator.
    void* memory(Allocator* allocator, std::size_t bytes) const;

    // Calls task(i) for all i < total on the session's threads. A thread takes one of `batches`
    // contiguous ranges at a time.
    template <typename Task>
    void parallel_for(std::int64_t total, std::int64_t batches, const Task& task) const {
        if (batches <= 1 || total <= 1 || works_alone(Clock::now())) {
            for (std::int64_t i = 0; i < total; ++i) {
                task(i);
            }
            return;
        }
        Shared<Task> shared{task, std::this_thread::get_id(), Clock::now(), {}, {}, 0, false};
        shared.last_end = shared.start;
        parallel_for(static_cast<std::size_t>(total), static_cast<std::size_t>(batches),
                     Shared<Task>::run, &shared);
        if (shared.failed) {
            throw std::bad_alloc();  // nothing else in a task can fail
        }
        if (shared.own_tasks > 0) {
            const Clock::time_point now = Clock::now();
            report_times({shared.own_tasks, shared.last_end - shared.start, shared.longest,
                          now - shared.last_end},
                         now);
        }
    }

  private:
    // What the threads of one call share. Only tasks on the calling thread are timed.
    template <typename Task>
    struct Shared {
        const Task& task;
        const std::thread::id caller;
        const Clock::time_point start;
        Clock::time_point last_end;
        Clock::duration longest;
        int own_tasks;
        std::atomic<bool> failed;

        static void run(void* user, std::size_t index) {
            auto* all = static_cast<Shared*>(user);
            try {
                all->task(static_cast<std::int64_t>(index));
            } catch (...) {  // an exception must not reach ONNX Runtime's thread
                all->failed = true;
            }
            if (std::this_thread::get_id() == all->caller) {
                const Clock::time_point now = Clock::now();
                all->longest = std::max(all->longest, now - all->last_end);
                all->last_end = now;
                ++all->own_tasks;
            }
        }
    };

    void parallel_for(std::size_t total, std::size_t batches, void (*task)(void*, std::size_t),
                      void* user) const;

    const Api* api_;
    KernelContext* context_;
};

inline Float float_type(const Tensor& tensor) {
    return tensor.type == ElementType::kFloat16    ? Float::kHalf
           : tensor.type == ElementType::kBFloat16 ? Float::kBFloat16
                                                   : Float::kSingle;
}
inline ConstFloats const_floats(const Tensor& tensor) { return {tensor.data, float_type(tensor)}; }

}  // namespace resq::ort
