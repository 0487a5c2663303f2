// The kernels for AVX-VNNI (with AVX2, FMA and F16C).
#define RESQ_ISA avxvnni

// Each of these uses what stands above it.
#include "dots_avxvnni.hpp"
#include "resq/kernel_tables.hpp"
#include "streams_x86.hpp"
#include "table.hpp"
#include "vectors_avx2.hpp"

namespace resq {

const Kernels kAvxVnniKernels = avxvnni::table("avxvnni");

}  // namespace resq
