// The kernels for AVX-VNNI (with AVX2, FMA and F16C).
#define RESQ_ISA avxvnni

// The instruction set's own headers come first, and dots before pairs and streams.
#include "dots_avxvnni.hpp"
#include "pairs_avx2.hpp"
#include "streams_x86.hpp"
#include "vectors_avx2.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kAvxVnniKernels = avxvnni::table("avxvnni");

}  // namespace resq
