// Chooses the kernels: the best that this CPU can run, or those that RESQ_ONNX_ISA names.
#pragma once

#include <string>

#include "resq/kernels.hpp"

namespace resq::ort {

// The kernels in use.
//
// Throws Refusal if RESQ_ONNX_ISA names none of `available_kernels()`.
const Kernels& kernels();

// The names of the kernels that this CPU can run, best first, separated by commas.
const std::string& available_kernels();

}  // namespace resq::ort
