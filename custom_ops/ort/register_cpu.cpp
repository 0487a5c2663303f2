// The operators on the CPU, and beside them those of the CUDA library.
#include <initializer_list>

#include "cpu_attention.hpp"
#include "cpu_hadamard.hpp"
#include "cpu_matmul.hpp"
#include "dispatch.hpp"
#include "operator.hpp"
#include "register.hpp"

namespace resq::ort {

Status* add_operators(CustomOpDomain* domain) {
    try {
        kernels();
    } catch (const Refusal& refusal) {
        return failure("resq-onnx: " + refusal.reason);
    }
    for (const CustomOp* op : {
             Operator<CpuMatMulKernel, ElementType::kFloat>::description(),
             Operator<CpuMatMulKernel, ElementType::kFloat16>::description(),
             Operator<CpuAttentionKernel, ElementType::kFloat>::description(),
             Operator<CpuAttentionKernel, ElementType::kFloat16>::description(),
             Operator<CpuHadamardKernel, ElementType::kFloat>::description(),
             Operator<CpuHadamardKernel, ElementType::kFloat16>::description(),
         }) {
        if (Status* status = function<CustomOpDomainAdd>(api())(domain, op)) {
            return status;
        }
    }
    return add_cuda_operators(domain);
}

}  // namespace resq::ort
