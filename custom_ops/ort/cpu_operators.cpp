// The operators on the CPU, and beside them those of the CUDA library.
#include <initializer_list>

#include "attention_op.hpp"
#include "dispatch.hpp"
#include "hadamard_op.hpp"
#include "matmul_op.hpp"
#include "operator.hpp"
#include "operators.hpp"

namespace resq::ort {

Status* add_operators(CustomOpDomain* domain) {
    try {
        kernels();
    } catch (const Refusal& refusal) {
        return failure("resq-onnx: " + refusal.reason);
    }
    for (const CustomOp* op : {
             Operator<MatMulKernel, ElementType::kFloat>::description(),
             Operator<MatMulKernel, ElementType::kFloat16>::description(),
             Operator<AttentionKernel, ElementType::kFloat>::description(),
             Operator<AttentionKernel, ElementType::kFloat16>::description(),
             Operator<HadamardKernel, ElementType::kFloat>::description(),
             Operator<HadamardKernel, ElementType::kFloat16>::description(),
         }) {
        if (Status* status = function<CustomOpDomainAdd>(api())(domain, op)) {
            return status;
        }
    }
    return add_cuda_operators(domain);
}

}  // namespace resq::ort
