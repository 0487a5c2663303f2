// The kernels for AVX-VNNI, with its instruction in AVX-512's encoding: tests them on CPUs that
// have AVX-512-VNNI but not AVX-VNNI.
#define RESQ_ISA avxvnni_evex

// The instruction set's own headers come first, and dots before pairs and streams.
#include "../cpu/dots_avxvnni.hpp"
#include "../cpu/pairs_avx2.hpp"
#include "../cpu/streams_x86.hpp"
#include "../cpu/vectors_avx2.hpp"

#include "../cpu/table.hpp"

namespace resq {

extern const Kernels kAvxVnniEvexKernels;
const Kernels kAvxVnniEvexKernels = avxvnni_evex::table("avxvnni");

}  // namespace resq
