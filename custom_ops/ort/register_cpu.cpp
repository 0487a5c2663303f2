// Registers the operators for CPUs, and those of the CUDA library if it is there.
#include <initializer_list>

#include "cpu_attention.hpp"
#include "cpu_hadamard.hpp"
#include "cpu_matmul.hpp"
#include "dispatch.hpp"
#include "operator.hpp"
#include "register.hpp"

namespace resq::ort {
namespace {

template <typename Kernel>
Status* add(CustomOpDomain* domain) {
    return add_operator<Kernel, ElementType::kFloat, ElementType::kFloat16>(domain);
}

}  // namespace

Status* add_operators(CustomOpDomain* domain) {
    try {
        kernels();
    } catch (const Refusal& refusal) {
        return failure("resq-onnx: " + refusal.reason);
    }
    for (Status* (*step)(CustomOpDomain*) : {add<CpuMatMulKernel>, add<CpuAttentionKernel>,
                                             add<CpuHadamardKernel>, add_cuda_operators}) {
        if (Status* status = step(domain)) {
            return status;
        }
    }
    return nullptr;
}

}  // namespace resq::ort
