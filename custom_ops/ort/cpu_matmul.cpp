// MixedPrecisionMatMul on the CPU: splits the work into tasks for the session's threads.
#include "cpu_matmul.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace resq::ort {
namespace {

// Rows that a task quantises: some microseconds of work.
constexpr std::int64_t kRowsOfTask = 16;

// Bytes of weights that a task multiplies with a few rows: enough to hide the cost of a task (below
// a microsecond), few enough that no thread waits long for another. With this many rows more, a
// task takes half as many.
constexpr std::int64_t kBytesOfTask = 64 * 1024, kRowsOfHalf = 8;

// Tasks are a multiple of this, if there are so many blocks: with 2 or 4 threads none has one more.
constexpr std::int64_t kTurn = 4;

// Rows up to which weights are streamed: with more, panels were faster, with AVX2, AVX-VNNI and
// AVX-512-VNNI. A panel of wide rows does not fit in the L1 cache.
constexpr std::int64_t kStreamedRows = 8, kStreamedWide = 16;
constexpr std::int64_t kWideRow = 2048;

// With many rows: the minimum of tasks per call, and of rows per task. Every task unpacks its
// panel, which costs as much as multiplying it with a few rows.
constexpr std::int64_t kTasks = 16;
constexpr std::int64_t kRowsOfPanel = 96;

std::int64_t weight_bytes(const MatMul& m) {
    std::int64_t bytes = 0;
    for (const Part& part : m.parts) {
        bytes += m.outputs * m.groups * part.width * part.bits / 8;
    }
    return bytes;
}

std::int64_t whole_turns(std::int64_t tasks) { return (tasks + kTurn - 1) / kTurn * kTurn; }

std::int64_t streamed_rows(const MatMul& m) {
    return m.columns() > kWideRow ? kStreamedWide : kStreamedRows;
}

// One call: what its tasks share.
struct Work {
    const Kernels& kernels;
    const MatMul& matmul;
    const NodeContext& context;
    ConstFloats x;
    MatMulOutput out;
    std::int64_t rows;
    Activations activations;

    void quantise() const {
        const std::int64_t tasks = (rows + kRowsOfTask - 1) / kRowsOfTask;
        context.parallel_for(tasks, tasks, [&](std::int64_t task) {
            kernels.quantise_rows(matmul, x, activations, task * kRowsOfTask,
                                  std::min(rows, (task + 1) * kRowsOfTask));
        });
    }

    // A task reads its weights from memory for the first rows; for later rows they are in the
    // cache.
    void multiply_few() const {
        const std::size_t stride = kernels.prepared_row_bytes(matmul);
        auto* prepared = static_cast<std::uint8_t*>(
            scratch(ScratchUse::kPrepared, stride * static_cast<std::size_t>(rows)));
        for (std::int64_t row = 0; row < rows; row += kernels.few_rows) {
            kernels.prepare_stream(matmul, activations, row, std::min(kernels.few_rows, rows - row),
                                   prepared + stride * static_cast<std::size_t>(row));
        }
        const std::int64_t blocks = (matmul.outputs + 15) / 16;
        const std::int64_t tasks =
            std::clamp<std::int64_t>(whole_turns(weight_bytes(matmul) / kBytesOfTask), 1, blocks);
        context.parallel_for(tasks, tasks, [&](std::int64_t task) {
            void* memory = scratch(ScratchUse::kWork, kernels.stream_scratch_bytes(matmul));
            for (std::int64_t row = 0; row < rows; row += kernels.few_rows) {
                kernels.multiply_stream(matmul, activations, out,
                                        prepared + stride * static_cast<std::size_t>(row), row,
                                        std::min(kernels.few_rows, rows - row),
                                        blocks * task / tasks, blocks * (task + 1) / tasks, memory);
            }
        });
    }

    void multiply_many() const {
        const std::int64_t width = kernels.panel_outputs;
        const std::int64_t panels = (matmul.outputs + width - 1) / width;
        const std::int64_t wanted = (kTasks + panels - 1) / panels;
        const std::int64_t cuts =
            std::clamp<std::int64_t>(rows / kRowsOfPanel, 1, std::max<std::int64_t>(wanted, 1));
        const std::int64_t batches = weight_bytes(matmul) * (1 + rows / kRowsOfHalf) / kBytesOfTask;
        context.parallel_for(panels * cuts, std::min(panels * cuts, batches), [&](auto task) {
            const std::int64_t panel = task / cuts, cut = task % cuts;
            void* memory = scratch(ScratchUse::kWork, kernels.panel_bytes(matmul));
            kernels.multiply_panel(matmul, activations, out, panel, rows * cut / cuts,
                                   rows * (cut + 1) / cuts, memory);
        });
    }
};

}  // namespace

CpuMatMulKernel::CpuMatMulKernel(const NodeInfo& node)
    : kernels_(kernels()), matmul_(read_matmul(node)) {}

void CpuMatMulKernel::compute(const NodeContext& context) const {
    const MatMulTensors tensors(matmul_, context);
    const std::int64_t rows = tensors.rows;
    if (rows == 0 || matmul_.outputs == 0) {
        return;
    }
    const auto count = static_cast<std::size_t>(rows);
    const auto segments = count * static_cast<std::size_t>(matmul_.segments());
    const std::size_t row_bytes = kernels_.row_bytes(matmul_);
    const Activations activations{
        static_cast<std::uint8_t*>(scratch(ScratchUse::kIntegers, count * row_bytes)),
        static_cast<float*>(scratch(ScratchUse::kScales, segments * sizeof(float))),
        static_cast<std::int32_t*>(scratch(ScratchUse::kZeros, segments * sizeof(std::int32_t))),
        row_bytes};
    const Work work{kernels_,         matmul_, context,    const_floats(tensors.x),
                    tensors.output(), rows,    activations};
    work.quantise();
    if (rows <= streamed_rows(matmul_) && kernels_.can_stream(matmul_)) {
        work.multiply_few();
    } else {
        work.multiply_many();
    }
}

}  // namespace resq::ort
