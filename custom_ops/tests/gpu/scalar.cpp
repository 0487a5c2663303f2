// Calls of the scalar kernels.
#include "scalar.hpp"

#include <algorithm>

#include "resq/kernel_tables.hpp"
#include "values.hpp"

namespace resq::tests::gpu {

Floats32 scalar_matmul(const MatMul& m, const Floats32& x, const Floats32& residual,
                       std::int64_t rows) {
    const Kernels& kernels = kScalarKernels;
    const std::size_t row_bytes = kernels.row_bytes(m);
    std::vector<std::uint8_t> integers(static_cast<std::size_t>(rows) * row_bytes);
    std::vector<float> scales(static_cast<std::size_t>(rows * m.segments()));
    std::vector<std::int32_t> zeros(scales.size());
    const Activations activations{integers.data(), scales.data(), zeros.data(), row_bytes};
    kernels.quantise_rows(m, {x.data(), Float::kSingle}, activations, 0, rows);
    Floats32 y(static_cast<std::size_t>(rows * m.outputs));
    const MatMulOutput output{{y.data(), Float::kSingle},
                              {residual.empty() ? nullptr : residual.data(), Float::kSingle}};
    const Scratch scratch(kernels.panel_bytes(m));
    for (std::int64_t panel = 0; panel * kernels.panel_outputs < m.outputs; ++panel) {
        kernels.multiply_panel(m, activations, output, panel, 0, rows, scratch);
    }
    return y;
}

Floats32 scalar_hadamard(const GatedHadamard& h, const Floats32& gate_up, std::int64_t rows) {
    Floats32 y(static_cast<std::size_t>(rows * h.width));
    const Scratch scratch(kScalarKernels.hadamard_scratch_bytes(h));
    kScalarKernels.gated_hadamard(h, {gate_up.data(), Float::kSingle}, {y.data(), Float::kSingle},
                                  0, rows, scratch);
    return y;
}

void scalar_prepare(const Attention& a, const AttentionCall& call) {
    const Scratch scratch(kScalarKernels.prepare_scratch_bytes(a));
    kScalarKernels.prepare_tokens(a, call, 0, call.batch * call.tokens, scratch);
}

void scalar_attend(const Attention& a, const AttentionCall& call) {
    const Scratch scratch(kScalarKernels.attend_scratch_bytes(a));
    for (std::int64_t head = 0; head < call.batch * a.kv_heads; ++head) {
        for (std::int64_t first = 0; first < call.tokens; first += kQueryTokens) {
            AttentionBlock block{};
            block.sequence = head / a.kv_heads;
            block.kv_head = head % a.kv_heads;
            block.first_token = first;
            block.tokens = std::min(kQueryTokens, call.tokens - first);
            const Chunks seen =
                seen_chunks(a, call.old(block.sequence), first, first + block.tokens - 1);
            block.first_chunk = seen.first;
            block.last_chunk = seen.last;
            kScalarKernels.attend(a, call, block, scratch);
        }
    }
}

}  // namespace resq::tests::gpu
