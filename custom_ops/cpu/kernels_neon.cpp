// The kernels for NEON with its dot products (Armv8.2).
#define RESQ_ISA neon

// The instruction set's own headers come first, and dots before pairs and streams.
#include "dots_neon.hpp"
#include "pairs_neon.hpp"
#include "streams_neon.hpp"
#include "vectors_neon.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kNeonKernels = neon::table("neon");

}  // namespace resq
