// The entry point that ONNX Runtime calls to register the library with a session.
//
// A registered operator replaces the function of the same name in an exported model.
#include <cstdio>
#include <mutex>

#include "abi.hpp"
#include "operator.hpp"
#include "register.hpp"
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

// Adds all operators as one domain. Several threads may create sessions at the same time, so the
// caller holds a lock.
Status* add_domain(SessionOptions* options) {
    static CustomOpDomain* domain = nullptr;  // shared by all sessions, and never released
    if (domain == nullptr) {
        CustomOpDomain* made = nullptr;
        if (Status* status = function<CreateCustomOpDomain>(api())("ai.resq", &made)) {
            return status;
        }
        if (Status* status = add_operators(made)) {
            return status;
        }
        domain = made;
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
    return ort::add_domain(options);
}
