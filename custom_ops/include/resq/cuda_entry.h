// The entry of libresq_onnx_ops_cuda, for the library that it lies beside.
#pragma once

#include "resq/export.h"

namespace resq::ort {
struct Api;
struct CustomOpDomain;
struct Status;
}  // namespace resq::ort

// Adds the operators for CUDAExecutionProvider to a domain. `version` is the caller's, which has to
// be the library's own. Returns null, or why it could not.
RESQ_EXPORT resq::ort::Status* resq_onnx_add_cuda_operators(const resq::ort::Api* api,
                                                            resq::ort::CustomOpDomain* domain,
                                                            const char* version);
