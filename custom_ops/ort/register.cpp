// The entry that ONNX Runtime calls when the library is registered with a session.
//
// No operator is registered yet. A registered operator takes the place of the function of the
// same name that every exported model carries, so an operator appears here together with its
// kernel and not before: until then a session runs the functions, with this library or without.
#include <cstdio>

#include "abi.hpp"
#include "resq/export.h"

namespace {

using resq::ort::Api;
using resq::ort::ApiBase;
using resq::ort::CreateStatusFn;
using resq::ort::ErrorCode;
using resq::ort::Status;

Status* refuse_old_runtime(const ApiBase* base) {
    const Api* api = base->GetApi(resq::ort::kFirstApiVersion);
    const auto create_status =
        resq::ort::function<CreateStatusFn>(api, resq::ort::kCreateStatusSlot);
    char message[160];
    std::snprintf(message, sizeof message,
                  "resq-onnx needs ONNX Runtime 1.%u or newer, this is %s; upgrade onnxruntime",
                  resq::ort::kApiVersion, base->GetVersionString());
    return create_status(ErrorCode::kFail, message);  // copies the message
}

}  // namespace

RESQ_EXPORT Status* RegisterCustomOps(resq::ort::SessionOptions* /*options*/, const ApiBase* base) {
    if (base->GetApi(resq::ort::kApiVersion) == nullptr) {
        return refuse_old_runtime(base);
    }
    return nullptr;
}
