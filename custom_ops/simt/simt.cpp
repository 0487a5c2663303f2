// Schedules the threads of a block.
#include "simt.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace simt {
namespace {

constexpr std::size_t kAlignment = 128;  // of shared memory

std::uint32_t seed() {
    const char* text = std::getenv("RESQ_SIMT_SEED");
    return text == nullptr ? 1u : static_cast<std::uint32_t>(std::strtoul(text, nullptr, 10));
}

// 0, 1, ... into `order`, unless it is as long as that already.
void resize(std::vector<std::size_t>& order, std::size_t count) {
    if (order.size() != count) {
        order.resize(count);
        std::iota(order.begin(), order.end(), std::size_t{0});
    }
}

}  // namespace

void Block::stop(const char* message) const {
    std::fprintf(stderr, "simt: block (%u, %u, %u): %s\n", index.x, index.y, index.z, message);
    std::abort();
}

__thread Block* own_block = nullptr;

Block& make_own_block() {
    thread_local Block one;
    own_block = &one;
    return one;
}

Block::Block() : shuffle_(seed()) { resize(lanes_, kWarpSize); }

void Block::run(Dim3 grid_size, Dim3 block_size, std::size_t shared_bytes,
                const std::function<void()>& kernel) {
    grid = grid_size;
    threads = block_size;
    const std::size_t count = block_size.x;
    if (count == 0 || count % kWarpSize != 0 || block_size.y != 1 || block_size.z != 1) {
        stop("a block must consist of whole warps in one dimension");
    }
    while (threads_.size() < count) {
        threads_.push_back(std::make_unique<Thread>());
        threads_.back()->index = {static_cast<unsigned>(threads_.size() - 1), 0, 0};
    }
    // Of the exact size, so that the sanitizer sees an access beyond it.
    void* memory =
        ::operator new(std::max<std::size_t>(shared_bytes, 1), std::align_val_t{kAlignment});
    shared_ = static_cast<std::byte*>(memory);
    for (index.z = 0; index.z < grid.z; ++index.z) {
        for (index.y = 0; index.y < grid.y; ++index.y) {
            for (index.x = 0; index.x < grid.x; ++index.x) {
                std::memset(shared_, 0xFF, shared_bytes);
                run_block(kernel);
            }
        }
    }
    ::operator delete(memory, std::align_val_t{kAlignment});
    shared_ = nullptr;
}

void Block::run_block(const std::function<void()>& kernel) {
    const std::size_t count = threads.x;
    for (std::size_t i = 0; i < count; ++i) {
        Thread& thread = *threads_[i];
        thread.state = State::kReady;
        thread.uncommitted.clear();
        thread.groups.clear();
        thread.fibre.begin([&kernel] { kernel(); });
    }
    resize(warps_, count / kWarpSize);
    for (;;) {
        shuffle_(warps_);
        for (const std::size_t warp : warps_) {
            run_warp(warp * kWarpSize);
        }
        const auto ended = [](const auto& thread) { return thread->state == State::kEnded; };
        if (std::all_of(threads_.begin(), threads_.begin() + static_cast<std::ptrdiff_t>(count),
                        ended)) {
            return;
        }
        release();
    }
}

// Runs a warp until all its threads wait at a barrier or have ended.
void Block::run_warp(std::size_t first) {
    for (bool any = true; any;) {
        any = false;
        shuffle_(lanes_);
        for (const std::size_t lane : lanes_) {
            Thread& thread = *threads_[first + lane];
            if (thread.state != State::kReady) {
                continue;
            }
            any = true;
            current_ = &thread;
            thread.fibre.resume();
            current_ = nullptr;
            if (thread.fibre.has_ended()) {
                thread.state = State::kEnded;
            }
        }
        if (any) {
            meet(first);
        }
    }
}

// Performs a joint operation of a warp's lanes, if any of them waits for one.
void Block::meet(std::size_t first) {
    void* operands[kWarpSize];
    WarpWork work = nullptr;
    std::size_t waiting = 0;
    for (std::size_t lane = 0; lane < kWarpSize; ++lane) {
        const Thread& thread = *threads_[first + lane];
        if (thread.state == State::kAtWarp) {
            operands[lane] = thread.operand;
            work = thread.work;
            ++waiting;
        }
    }
    if (waiting == 0) {
        return;
    }
    for (std::size_t lane = 0; lane < kWarpSize; ++lane) {
        Thread& thread = *threads_[first + lane];
        if (thread.state != State::kAtWarp || thread.work != work) {
            stop("the lanes of a warp diverge at an operation that all of them must take part in");
        }
        thread.state = State::kReady;
    }
    work(operands);
}

// Releases all threads from a barrier, which all of them must have reached.
void Block::release() {
    for (std::size_t i = 0; i < threads.x; ++i) {
        Thread& thread = *threads_[i];
        if (thread.state != State::kAtBarrier) {
            stop("some threads wait at a barrier that others never reach");
        }
        thread.state = State::kReady;
    }
}

void Block::wait(State state) {
    Thread& thread = *current_;
    thread.state = state;
    thread.fibre.pause();
}

void Block::together(WarpWork work, void* operand) {
    current_->work = work;
    current_->operand = operand;
    wait(State::kAtWarp);
}

}  // namespace simt
