// The kernel tables of the instruction sets. A library holds those it was built with.
#pragma once

#include "resq/kernels.hpp"

namespace resq {

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvxVnniKernels;
extern const Kernels kAvx512VnniKernels;
extern const Kernels kNeonKernels;

}  // namespace resq
