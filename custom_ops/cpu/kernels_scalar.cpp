// The kernels for any CPU: slow, and the oracle of the others.
#define RESQ_ISA scalar

// Each of these uses what stands above it.
#include "dots_scalar.hpp"
#include "resq/kernel_tables.hpp"
#include "streams_scalar.hpp"
#include "table.hpp"
#include "vectors_scalar.hpp"

namespace resq {

const Kernels kScalarKernels = scalar::table("scalar");

}  // namespace resq
