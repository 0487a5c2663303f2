// The kernels for AVX-VNNI (with AVX2, FMA and F16C).
#define RESQ_ISA avxvnni

// The blocks in this order: each uses what stands above it.
#include "vectors_avx2.hpp"

#include "dots_avxvnni.hpp"

#include "streams_x86.hpp"

#include "resq/kernel_tables.hpp"
#include "table.hpp"

namespace resq {

const Kernels kAvxVnniKernels = avxvnni::table("avxvnni");

}  // namespace resq
