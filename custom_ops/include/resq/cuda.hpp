// The operators on a GPU: functions that put kernels into a queue. All pointers are to its memory.
//
// They allocate nothing, wait for nothing, and can be captured into a CUDA graph. What goes wrong
// is kept in the queue.
#pragma once

#include <cstddef>
#include <cstdint>

#include "resq/attention.hpp"
#include "resq/hadamard.hpp"
#include "resq/matmul.hpp"

namespace resq::cuda {

// Where kernels are put, one after the other.
struct Queue {
    void* stream;                 // cudaStream_t
    const char* error = nullptr;  // what CUDA said of the first thing that failed; static
};

// The GPU in use.
struct Gpu {
    int capability = 0;            // such as 86
    std::size_t shared_bytes = 0;  // shared memory that a block may have
};

// Asks CUDA. Where there is no answer, `error` says why.
Gpu this_gpu(const char** error);

// Copies to the CPU, and waits: for constants, when a node is created.
const char* read_back(void* target, const void* source, std::size_t bytes);

// --- MixedPrecisionMatMul -----------------------------------------------------------------------

// How rows are quantised, which depends on how they will be multiplied.
struct Plan {
    bool streams = false;  // few rows: each weight is read once
    bool nibbles = false;  // the GPU multiplies 4-bit numbers
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

// Bytes of memory that some rows need beside what a block's shared memory holds.
std::size_t hadamard_scratch_bytes(const GatedHadamard&, std::int64_t rows, const Gpu&);
void gated_hadamard(const GatedHadamard&, ConstFloats gate_up, Floats y, std::int64_t rows,
                    float* scratch, Queue&);

// --- MixedPrecisionAttention --------------------------------------------------------------------

// A cache of `call.capacity` slots that continues one of `past_slots`.
void continue_cache(const Attention&, const AttentionCall&, const std::uint8_t* past,
                    std::int64_t past_slots, std::uint8_t* present, Queue&);

// Floats of `queries` and of `partial` that a call needs.
std::size_t query_floats(const Attention&, const AttentionCall&);
std::size_t partial_floats(const Attention&, const AttentionCall&);
// Turns, projects and stores the new tokens, and attends.
void attend(const Attention&, const AttentionCall&, Queue&);

}  // namespace resq::cuda
