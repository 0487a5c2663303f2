// The kernels for AVX-VNNI once more, with its instruction in AVX-512's encoding: so they can be
// executed on a CPU that has AVX-512-VNNI and no AVX-VNNI.
#define RESQ_ISA avxvnni_evex

// What all others are made of comes first, and dots before streams.
#include "../cpu/dots_avxvnni.hpp"
#include "../cpu/streams_x86.hpp"
#include "../cpu/vectors_avx2.hpp"

#include "../cpu/table.hpp"

namespace resq {

extern const Kernels kAvxVnniEvexKernels;
const Kernels kAvxVnniEvexKernels = avxvnni_evex::table("avxvnni");

}  // namespace resq
