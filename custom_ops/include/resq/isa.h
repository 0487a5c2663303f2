// The instruction set in use, for programs that load the library.
#pragma once

#include "resq/export.h"

// Its name, such as "avx2"; empty if RESQ_ONNX_ISA names one that this CPU cannot run. The text is
// static; do not free it.
RESQ_EXPORT const char* resq_onnx_isa();

// All that this CPU can run, best first, separated by commas. This text is static, too.
RESQ_EXPORT const char* resq_onnx_available_isas();
