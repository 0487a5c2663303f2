// The operators on a GPU: functions that put kernels into a queue. All pointers are to GPU memory.
//
// They allocate nothing, wait for nothing, and can be captured into a CUDA graph. The queue keeps
// the first error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "resq/attention.hpp"
#include "resq/hadamard.hpp"
#include "resq/matmul.hpp"

namespace resq::cuda {

// A stream into which kernels are launched.
struct Queue {
    void* stream;                 // cudaStream_t
    const char* error = nullptr;  // CUDA's message for the first failure; static
};

// The GPU in use.
struct Gpu {
    int capability = 0;            // such as 86
    std::size_t shared_bytes = 0;  // the most shared memory a block may have
};

// Asks CUDA. If that fails, `error` says why.
Gpu this_gpu(const char** error);

// Copies to the CPU and waits. Used for constants when a node is created.
const char* read_back(void* target, const void* source, std::size_t bytes);

// --- MixedPrecisionMatMul -----------------------------------------------------------------------

// How rows are quantised, which depends on how they will be multiplied.
struct Plan {
    bool streams = false;  // few rows: each weight is read once
    bool nibbles = false;  // 4-bit tensor cores multiply
    int alignment = 1;     // of every segment of the weights: 16, 4 or 1 bytes
};
Plan plan_of(const MatMul&, std::int64_t rows, const Gpu&);

// Bytes of a quantised row: its segments one after the other, each a multiple of 32 bytes.
std::size_t row_bytes(const MatMul&, const Plan&);

void quantise_rows(const MatMul&, const Plan&, ConstFloats x, std::int64_t rows, const Activations&,
                   Queue&);
void multiply(const MatMul&, const Plan&, std::int64_t rows, const Activations&,
              const MatMulOutput&, Queue&);

// --- GatedHadamard ------------------------------------------------------------------------------

// Bytes of global memory that the rows need if shared memory is too small for them, else 0.
std::size_t hadamard_scratch_bytes(const GatedHadamard&, std::int64_t rows, const Gpu&);
void gated_hadamard(const GatedHadamard&, ConstFloats gate_up, Floats y, std::int64_t rows,
                    float* scratch, Queue&);

// --- MixedPrecisionAttention --------------------------------------------------------------------

// Copies a cache of `past_slots` slots into one of `call.capacity`.
void continue_cache(const Attention&, const AttentionCall&, const std::uint8_t* past,
                    std::int64_t past_slots, std::uint8_t* present, Queue&);

// Floats of `queries` and of `partial` that a call needs.
std::size_t query_floats(const Attention&, const AttentionCall&);
std::size_t partial_floats(const Attention&, const AttentionCall&);
// Rotates (RoPE), projects and stores the new tokens.
void prepare_tokens(const Attention&, const AttentionCall&, Queue&);
// Attends with their queries to the cache.
void attend_prepared(const Attention&, const AttentionCall&, Queue&);
// Both, one after the other.
void attend(const Attention&, const AttentionCall&, Queue&);

}  // namespace resq::cuda
