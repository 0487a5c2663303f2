// The kernels for AVX-512-VNNI (with F, BW, DQ and VL).
#define RESQ_ISA avx512vnni

// Each of these uses what stands above it.
#include "dots_avx512vnni.hpp"
#include "resq/kernel_tables.hpp"
#include "streams_x86.hpp"
#include "table.hpp"
#include "vectors_avx512.hpp"

namespace resq {

const Kernels kAvx512VnniKernels = avx512vnni::table("avx512vnni");

}  // namespace resq
