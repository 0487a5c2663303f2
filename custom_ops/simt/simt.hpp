// Runs a CUDA kernel's grid on this CPU. Each thread is a fibre. Between two barriers they run in
// random order, and whole warps run far ahead of others, so that a missing barrier is noticed.
//
// Shared memory is initialised to 0xFF (NaN) and has exactly the size asked for, so a sanitizer
// sees an access beyond it. Data of a cp.async arrives at its wait, no earlier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "fibre.hpp"

namespace simt {

constexpr int kWarpSize = 32;

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};

// An asynchronous copy that has not arrived. Bytes after the first `valid` are filled with zeros.
struct PendingCopy {
    void* target;
    const void* source;
    std::size_t bytes, valid;
};

// A joint operation of a warp's lanes, called with the operands of all of them.
using WarpWork = void (*)(void* const (&lanes)[kWarpSize]);

enum class State { kReady, kAtBarrier, kAtWarp, kEnded };

struct Thread {
    Dim3 index;  // threadIdx
    Fibre fibre;
    State state = State::kEnded;
    WarpWork work = nullptr;
    void* operand = nullptr;
    std::vector<PendingCopy> uncommitted;
    std::vector<std::vector<PendingCopy>> groups;  // oldest first
};

// Random orders, by xorshift: far cheaper than <random>, where a sanitizer looks at every step.
class Shuffler {
  public:
    explicit Shuffler(std::uint32_t seed) : state_(seed != 0 ? seed : 1) {}

    void operator()(std::vector<std::size_t>& order) {
        for (std::size_t left = order.size(); left > 1; --left) {
            std::swap(order[left - 1], order[std::uint64_t{next()} * left >> 32]);
        }
    }

  private:
    std::uint32_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 17;
        state_ ^= state_ << 5;
        return state_;
    }

    std::uint32_t state_;
};

// Runs one block at a time; its threads are reused for the next.
class Block {
  public:
    Block();

    Dim3 index, threads, grid;  // blockIdx, blockDim, gridDim

    void run(Dim3 grid_size, Dim3 block_size, std::size_t shared_bytes,
             const std::function<void()>& kernel);

    Thread& current() const { return *current_; }
    std::byte* shared() const { return shared_; }

    // Called by a thread.
    void barrier() { wait(State::kAtBarrier); }
    void together(WarpWork work, void* operand);
    // Ends the process: the kernel did something that a GPU does not allow.
    [[noreturn]] void stop(const char* message) const;

  private:
    void run_block(const std::function<void()>& kernel);
    void run_warp(std::size_t first);
    void meet(std::size_t first);
    void release();
    void wait(State state);

    std::vector<std::unique_ptr<Thread>> threads_;
    Thread* current_ = nullptr;
    std::byte* shared_ = nullptr;
    std::vector<std::size_t> warps_, lanes_;  // in the order of the last round
    Shuffler shuffle_;
};

// The block of this CPU thread, made when it is first asked for.
extern __thread Block* own_block __attribute__((tls_model("initial-exec")));
Block& make_own_block();
inline Block& block() { return own_block != nullptr ? *own_block : make_own_block(); }

}  // namespace simt
