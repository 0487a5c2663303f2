// The instruction set in use, for whoever loads the library.
#pragma once

#include "resq/export.h"

// Its name, such as "avx2"; empty where RESQ_ONNX_ISA names one that cannot run here. The text is
// static; do not free it.
RESQ_EXPORT const char* resq_onnx_isa();

// All that can run here, best first, separated by commas. The text is static too.
RESQ_EXPORT const char* resq_onnx_available_isas();
