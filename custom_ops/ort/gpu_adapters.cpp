// Launches the kernels of a call on ONNX Runtime's stream.
#include "gpu_adapters.hpp"

#include <vector>

namespace resq::ort {
namespace {

// Whether the fast transform can replace the part's inner factor, which is in GPU memory.
bool has_fast_inner(const HadamardPart& part) {
    const auto elements = static_cast<std::size_t>(part.inner_order * part.inner_order);
    std::vector<float> inner(elements);
    check(cuda::read_back(inner.data(), part.inner, elements * sizeof(float)));
    return is_sylvester(inner.data(), part.inner_order);
}

}  // namespace

void GpuMatMulKernel::compute(const NodeContext& context) const {
    const MatMulTensors tensors(matmul_, context);
    if (tensors.rows == 0 || matmul_.outputs == 0) {
        return;
    }
    const cuda::Plan plan = cuda::plan_of(matmul_, tensors.rows, device_.gpu());
    const auto rows = static_cast<std::size_t>(tensors.rows);
    const auto segments = rows * static_cast<std::size_t>(matmul_.segments());
    const std::size_t row_bytes = cuda::row_bytes(matmul_, plan);
    const Lease integers(device_, context, rows * row_bytes);
    const Lease scales(device_, context, segments * sizeof(float));
    const Lease zeros(device_, context, segments * sizeof(std::int32_t));
    const Activations activations{integers.as<std::uint8_t>(), scales.as<float>(),
                                  zeros.as<std::int32_t>(), row_bytes};
    cuda::Queue queue{context.stream()};
    cuda::quantise_rows(matmul_, plan, const_floats(tensors.x), tensors.rows, activations, queue);
    cuda::multiply(matmul_, plan, tensors.rows, activations, tensors.output(), queue);
    check(queue.error);
}

GpuHadamardKernel::GpuHadamardKernel(const NodeInfo& node)
    : device_(node), hadamard_(read_hadamard(node)) {
    for (HadamardPart& part : hadamard_.parts) {
        part.has_fast_inner = part.width() > 0 && has_fast_inner(part);
    }
}

void GpuHadamardKernel::compute(const NodeContext& context) const {
    const HadamardTensors tensors(hadamard_, context);
    if (tensors.rows == 0 || tensors.hadamard.width == 0) {
        return;
    }
    const Lease scratch(
        device_, context,
        cuda::hadamard_scratch_bytes(tensors.hadamard, tensors.rows, device_.gpu()));
    cuda::Queue queue{context.stream()};
    cuda::gated_hadamard(tensors.hadamard, const_floats(tensors.gate_up), tensors.output(),
                         tensors.rows, scratch.as<float>(), queue);
    check(queue.error);
}

GpuAttentionKernel::GpuAttentionKernel(const NodeInfo& node) : device_(node), node_(node) {
    if (node_.has_rows) {
        throw Refusal{"cached and cache_rows are given, which only the kernel for CPUs takes"};
    }
}

void GpuAttentionKernel::compute(const NodeContext& context) const {
    AttentionTensors tensors(node_, context);
    const Attention& a = tensors.attention;
    AttentionCall& call = tensors.call;
    cuda::Queue queue{context.stream()};
    const std::int64_t past_slots = tensors.past_key.dims[2];
    cuda::continue_cache(a, call, static_cast<const std::uint8_t*>(tensors.past_key.data),
                         past_slots, call.keys, queue);
    cuda::continue_cache(a, call, static_cast<const std::uint8_t*>(tensors.past_value.data),
                         past_slots, call.values, queue);
    check(queue.error);
    if (call.batch * call.tokens == 0) {
        return;
    }
    const Lease queries(device_, context, cuda::query_floats(a, call) * sizeof(float));
    const Lease partial(device_, context, cuda::partial_floats(a, call) * sizeof(float));
    call.queries = queries.as<float>();
    call.partial = partial.as<float>();
    cuda::attend(a, call, queue);
    check(queue.error);
}

}  // namespace resq::ort
