// The operators that a library holds.
#pragma once

#include "abi.hpp"

namespace resq::ort {

// Adds all of them to a domain. Defined once a library: register_cpu.cpp, register_gpu.cpp.
Status* add_operators(CustomOpDomain* domain);

// Adds what libresq_onnx_ops_cuda holds, if it lies beside this library.
Status* add_cuda_operators(CustomOpDomain* domain);

}  // namespace resq::ort
