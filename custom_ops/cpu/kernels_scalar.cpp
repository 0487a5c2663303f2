// The kernels for any CPU: slow, and the reference for the others.
#define RESQ_ISA scalar

// The instruction set's own headers come first, and dots before pairs and streams.
#include "dots_scalar.hpp"
#include "pairs_scalar.hpp"
#include "streams_scalar.hpp"
#include "vectors_scalar.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kScalarKernels = scalar::table("scalar");

}  // namespace resq
