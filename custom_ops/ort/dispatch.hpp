// Which instruction set's kernels run: the best this CPU has, or the one RESQ_ONNX_ISA names.
#pragma once

#include <string>

#include "resq/kernels.hpp"

namespace resq::ort {

// The kernels in use.
//
// Throws Refusal where RESQ_ONNX_ISA names none of `available_kernels()`.
const Kernels& kernels();

// The names of what this library holds and this CPU can run, best first, separated by commas.
const std::string& available_kernels();

}  // namespace resq::ort
