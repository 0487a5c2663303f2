// The entry that ONNX Runtime calls when the library is registered with a session.
//
// A registered operator takes the place of the function of the same name that every exported
// model carries.
#include <cstdio>
#include <mutex>

#include "abi.hpp"
#include "attention_op.hpp"
#include "dispatch.hpp"
#include "hadamard_op.hpp"
#include "matmul_op.hpp"
#include "operator.hpp"
#include "resq/export.h"

namespace resq::ort {
namespace {

Status* refuse_old_runtime(const ApiBase* base) {
    const Api* table = base->GetApi(kFirstApiVersion);
    char message[160];
    std::snprintf(message, sizeof message,
                  "resq-onnx needs ONNX Runtime 1.%u or newer, this is %s; upgrade onnxruntime",
                  kApiVersion, base->GetVersionString());
    return function<CreateStatus>(table)(ErrorCode::kFail, message);  // copies the message
}

// Each operator for both types of activations, as one domain. Sessions may be made by several
// threads at the same time, which is why the caller holds a lock.
Status* add_operators(SessionOptions* options) {
    static CustomOpDomain* domain = nullptr;  // shared by all sessions, and never released
    if (domain == nullptr) {
        if (Status* status = function<CreateCustomOpDomain>(api())("ai.resq", &domain)) {
            return status;
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
    }
    return function<AddCustomOpDomain>(api())(options, domain);
}

}  // namespace
}  // namespace resq::ort

RESQ_EXPORT resq::ort::Status* RegisterCustomOps(resq::ort::SessionOptions* options,
                                                 const resq::ort::ApiBase* base) {
    namespace ort = resq::ort;
    const ort::Api* table = base->GetApi(ort::kApiVersion);
    if (table == nullptr) {
        return ort::refuse_old_runtime(base);
    }
    static std::mutex registration;
    const std::lock_guard<std::mutex> lock(registration);
    ort::api() = table;
    try {
        ort::kernels();
    } catch (const ort::Refusal& refusal) {
        return ort::failure("resq-onnx: " + refusal.reason);
    }
    return ort::add_operators(options);
}
