// The kernels of one instruction set, as a table of functions.
//
// A kernel allocates nothing, starts no thread, reads no global state and does not query the CPU.
// The caller provides its scratch memory. Ranges are half open, and results do not depend on how
// the work is split into ranges.
#pragma once

#include <cstddef>
#include <cstdint>

#include "resq/attention.hpp"
#include "resq/hadamard.hpp"
#include "resq/matmul.hpp"

namespace resq {

// Kernels may read this many bytes beyond the content of scratch memory.
constexpr std::size_t kSlack = 64;

struct Kernels {
    const char* name;

    // --- MixedPrecisionMatMul -------------------------------------------------------------------
    // Bytes of a quantised row.
    std::size_t (*row_bytes)(const MatMul&);
    // Quantises rows of x (rows, columns).
    void (*quantise_rows)(const MatMul&, ConstFloats x, const Activations&, std::int64_t first,
                          std::int64_t last);

    // Many rows: the weights of this many outputs are unpacked into a panel that serves all rows.
    std::int64_t panel_outputs;
    std::size_t (*panel_bytes)(const MatMul&);
    void (*multiply_panel)(const MatMul&, const Activations&, const MatMulOutput&,
                           std::int64_t panel, std::int64_t first_row, std::int64_t last_row,
                           void* scratch);

    // Few rows, at most this many at once: each weight is read once, without a copy.
    std::int64_t few_rows;
    // Whether the weights allow that: 4-bit rows must begin at a byte.
    bool (*can_stream)(const MatMul&);
    // Bytes of one row rearranged for streaming, and the rearrangement of some rows, which are then
    // multiplied together.
    std::size_t (*prepared_row_bytes)(const MatMul&);
    void (*prepare_stream)(const MatMul&, const Activations&, std::int64_t first_row,
                           std::int64_t rows, void* prepared);
    // Bytes of scratch, and the product for blocks of 16 outputs.
    std::size_t (*stream_scratch_bytes)(const MatMul&);
    void (*multiply_stream)(const MatMul&, const Activations&, const MatMulOutput&,
                            const void* prepared, std::int64_t first_row, std::int64_t rows,
                            std::int64_t first_block, std::int64_t last_block, void* scratch);

    // --- GatedHadamard --------------------------------------------------------------------------
    std::size_t (*hadamard_scratch_bytes)(const GatedHadamard&);
    void (*gated_hadamard)(const GatedHadamard&, ConstFloats gate_up, Floats y, std::int64_t first,
                           std::int64_t last, void* scratch);

    // --- MixedPrecisionAttention ----------------------------------------------------------------
    // Rotates (RoPE), projects and stores the new tokens `first` to `last` of (batch * tokens), and
    // writes their queries to `queries`.
    std::size_t (*prepare_scratch_bytes)(const Attention&);
    void (*prepare_tokens)(const Attention&, const AttentionCall&, std::int64_t first,
                           std::int64_t last, void* scratch);
    // Attends with the queries of `tokens` tokens from `first_token` on, of one sequence and kv
    // head, over the chunks of slots `first_chunk` to `last_chunk`.
    std::size_t (*attend_scratch_bytes)(const Attention&);
    void (*attend)(const Attention&, const AttentionCall&, const AttentionBlock&, void* scratch);
    // Merges the partial results of one token and kv head, in the order of the chunks.
    void (*combine)(const Attention&, const AttentionCall&, std::int64_t sequence,
                    std::int64_t kv_head, std::int64_t token);
};

}  // namespace resq
