// The kernels for AVX-512-VNNI (with F, BW, DQ and VL).
#define RESQ_ISA avx512vnni

// The instruction set's own headers come first, and dots before pairs and streams.
#include "dots_avx512vnni.hpp"
#include "pairs_avx512.hpp"
#include "streams_x86.hpp"
#include "vectors_avx512.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kAvx512VnniKernels = avx512vnni::table("avx512vnni");

}  // namespace resq
