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
#include <random>
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

// Runs one block at a time; its threads are reused for the next.
class Block {
  public:
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
    std::mt19937 random_{seed()};

    static unsigned seed();
};

// The block that this CPU thread runs.
Block& block();

}  // namespace simt
