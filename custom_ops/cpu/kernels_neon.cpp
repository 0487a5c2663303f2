// The kernels for NEON with its dot products (Armv8.2).
#define RESQ_ISA neon

// The blocks in this order: each uses what stands above it.
#include "vectors_neon.hpp"

#include "dots_neon.hpp"

#include "streams_neon.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kNeonKernels = neon::table("neon");

}  // namespace resq
