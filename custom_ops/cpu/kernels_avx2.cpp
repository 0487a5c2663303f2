// The kernels for AVX2 with FMA and F16C.
#define RESQ_ISA avx2

// Each of these uses what stands above it.
#include "dots_avx2.hpp"
#include "resq/kernel_tables.hpp"
#include "streams_x86.hpp"
#include "table.hpp"
#include "vectors_avx2.hpp"

namespace resq {

const Kernels kAvx2Kernels = avx2::table("avx2");

}  // namespace resq
