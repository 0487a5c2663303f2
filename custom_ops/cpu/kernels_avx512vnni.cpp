// The kernels for AVX-512-VNNI (with F, BW, DQ and VL).
#define RESQ_ISA avx512vnni

// The blocks in this order: each uses what stands above it.
#include "vectors_avx512.hpp"

#include "dots_avx512vnni.hpp"

#include "streams_x86.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kAvx512VnniKernels = avx512vnni::table("avx512vnni");

}  // namespace resq
