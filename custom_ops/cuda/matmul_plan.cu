// Chooses the kernel of a matrix product by its sizes and the GPU.
#include "segments.cuh"

namespace resq::cuda {
namespace {

// Rows up to which weights are streamed: two of an instruction's tiles of 8 rows.
constexpr std::int64_t kStreamedRows = 16;

// Whether every segment of a part begins at a multiple of `bytes`.
bool is_aligned(const Part& part, int bytes) {
    const std::int64_t bits = 8 * bytes;
    return part.width == 0 ||
           (part.width * part.bits % bits == 0 &&
            reinterpret_cast<std::uintptr_t>(part.weights) % static_cast<unsigned>(bytes) == 0);
}

}  // namespace

Plan plan_of(const MatMul& m, std::int64_t rows, const Gpu& gpu) {
    Plan plan;
    plan.streams = rows <= kStreamedRows;
    for (const int alignment : {4, 16}) {
        if (is_aligned(m.parts[0], alignment) && is_aligned(m.parts[1], alignment)) {
            plan.alignment = alignment;
        }
    }
    // Ampere and Ada have 4-bit tensor cores; Hopper and Blackwell have none.
    const bool has_nibbles = gpu.capability >= 80 && gpu.capability < 90;
    plan.nibbles = has_nibbles && !plan.streams && m.parts[0].bits == 4 && m.parts[0].width > 0 &&
                   plan.alignment > 1;
    return plan;
}

std::size_t row_bytes(const MatMul& m, const Plan& plan) {
    std::int64_t bytes = 0;
    for (const Part& part : m.parts) {
        bytes += part.width > 0 ? m.groups * segment_bytes(part, plan) : 0;
    }
    return static_cast<std::size_t>(bytes);
}

void multiply(const MatMul& m, const Plan& plan, std::int64_t rows, const Activations& x,
              const MatMulOutput& out, Queue& queue) {
    const Problem problem{m, plan, rows, x, out};
    plan.streams ? multiply_few(problem, queue) : multiply_many(problem, queue);
}

}  // namespace resq::cuda
