// The kernels for AVX2 with FMA and F16C.
#define RESQ_ISA avx2

// The instruction set's own headers come first, and dots before pairs and streams.
#include "dots_avx2.hpp"
#include "pairs_avx2.hpp"
#include "streams_x86.hpp"
#include "vectors_avx2.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kAvx2Kernels = avx2::table("avx2");

}  // namespace resq
