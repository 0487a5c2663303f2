// The version of the library. The Python package compares it with its own.
#pragma once

#include "resq/export.h"

// The version of the Python package that this library was built with, such as "0.1.0".
// The text is static; do not free it.
RESQ_EXPORT const char* resq_onnx_version();
