// The entry point of libresq_onnx_ops_cuda, which the CPU library beside it calls.
#pragma once

#include "resq/export.h"

namespace resq::ort {
struct Api;
struct CustomOpDomain;
struct Status;
}  // namespace resq::ort

// Adds the operators for CUDAExecutionProvider to a domain. `version` is the caller's and must
// equal this library's. Returns null, or what went wrong.
RESQ_EXPORT resq::ort::Status* resq_onnx_add_cuda_operators(const resq::ort::Api* api,
                                                            resq::ort::CustomOpDomain* domain,
                                                            const char* version);
