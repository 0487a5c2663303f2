// GatedHadamard on the CPU: splits the tokens into tasks for the session's threads.
#include "cpu_hadamard.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace resq::ort {
namespace {

// Tokens per task: a few times what the kernel takes at once.
constexpr std::int64_t kTokensOfTask = 8;

}  // namespace

CpuHadamardKernel::CpuHadamardKernel(const NodeInfo& node)
    : kernels_(kernels()), hadamard_(read_hadamard(node)) {
    for (HadamardPart& part : hadamard_.parts) {
        part.has_fast_inner = is_sylvester(part.inner, part.inner_order);
    }
}

void CpuHadamardKernel::compute(const NodeContext& context) const {
    const HadamardTensors tensors(hadamard_, context);
    const std::int64_t tasks = (tensors.rows + kTokensOfTask - 1) / kTokensOfTask;
    context.parallel_for(tasks, tasks, [&](std::int64_t task) {
        void* memory =
            scratch(ScratchUse::kWork, kernels_.hadamard_scratch_bytes(tensors.hadamard));
        kernels_.gated_hadamard(tensors.hadamard, const_floats(tensors.gate_up), tensors.output(),
                                task * kTokensOfTask,
                                std::min(tensors.rows, (task + 1) * kTokensOfTask), memory);
    });
}

}  // namespace resq::ort
