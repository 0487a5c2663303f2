// GatedHadamard on the CPU: cuts the tokens for the session's threads.
#include "hadamard_op.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace resq::ort {
namespace {

// Tokens of one task: what the kernel takes at once, a few times.
constexpr std::int64_t kTokensOfTask = 8;

}  // namespace

HadamardKernel::HadamardKernel(const NodeInfo& node)
    : kernels_(kernels()), hadamard_(read_hadamard(node)) {
    for (HadamardPart& part : hadamard_.parts) {
        part.has_fast_inner = is_sylvester(part.inner, part.inner_order);
    }
}

void HadamardKernel::compute(const NodeContext& context) const {
    const HadamardCall call(hadamard_, context);
    const std::int64_t tasks = (call.rows + kTokensOfTask - 1) / kTokensOfTask;
    context.parallel_for(tasks, tasks, [&](std::int64_t task) {
        void* work = scratch(Use::kWork, kernels_.hadamard_scratch_bytes(call.hadamard));
        kernels_.gated_hadamard(call.hadamard, const_floats(call.gate_up), call.output(),
                                task * kTokensOfTask,
                                std::min(call.rows, (task + 1) * kTokensOfTask), work);
    });
}

}  // namespace resq::ort
