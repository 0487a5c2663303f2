// Adding a library's operators to a domain.
#pragma once

#include "abi.hpp"

namespace resq::ort {

// Adds all operators of this library: register_cpu.cpp, or register_gpu.cpp.
Status* add_operators(CustomOpDomain* domain);

// Adds those of libresq_onnx_ops_cuda, if that lies beside this library.
Status* add_cuda_operators(CustomOpDomain* domain);

}  // namespace resq::ort
