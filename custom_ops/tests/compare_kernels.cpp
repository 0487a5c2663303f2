// compare_kernels [--quick]: compares every instruction set of this build that this CPU has with
// the scalar kernels, bit for bit, over awkward shapes.
//
// Prints a line for each, and a checksum of the scalar kernels' results, which is the same on every
// CPU. Exit code 1 if anything differs, 2 if the arguments are wrong.
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "contest.hpp"
#include "ort/cpu_features.hpp"
#include "resq/kernel_tables.hpp"

namespace resq {

extern const Kernels kAvxVnniEvexKernels;

namespace tests {
namespace {

struct Candidate {
    const Kernels& kernels;
    bool runs_here;
    const char* remark;
};

std::vector<Candidate> candidates() {
    return {
#ifdef RESQ_ISA_AVX2
        {kAvx2Kernels, ort::cpu_has_avx2(), ""},
#endif
#ifdef RESQ_ISA_AVXVNNI
        {kAvxVnniKernels, ort::cpu_has_avx2() && ort::cpu_has_avxvnni(), ""},
#endif
#ifdef RESQ_ISA_AVX512VNNI
        {kAvxVnniEvexKernels, ort::cpu_has_avx2() && ort::cpu_has_avx512vnni(),
         " (its source, in AVX-512's encoding)"},
        {kAvx512VnniKernels, ort::cpu_has_avx512vnni(), ""},
#endif
#ifdef RESQ_ISA_NEON
        {kNeonKernels, ort::cpu_has_dotprod(), ""},
#endif
    };
}

void print(const Contestant& contestant, const char* remark) {
    std::printf("%-10s executed: %" PRId64 " comparisons, %" PRId64 " mismatches%s\n",
                contestant.kernels.name, contestant.comparisons, contestant.mismatches, remark);
}

bool compare_all(bool quick) {
    Contest contest{{kScalarKernels}, {}};
    const std::vector<Candidate> all = candidates();
    for (const Candidate& candidate : all) {
        if (candidate.runs_here) {
            contest.others.push_back({candidate.kernels});
        }
    }
    compare_matmuls(contest, quick);
    compare_hadamards(contest, quick);
    compare_attentions(contest, quick);

    print(contest.scalar, " (one way against another)");
    bool agree = contest.scalar.mismatches == 0;
    std::size_t next = 0;
    for (const Candidate& candidate : all) {
        if (!candidate.runs_here) {
            std::printf("%-10s not runnable here%s\n", candidate.kernels.name, candidate.remark);
            continue;
        }
        const Contestant& contestant = contest.others[next++];
        print(contestant, candidate.remark);
        agree = agree && contestant.mismatches == 0;
    }
    std::printf("checksum of the scalar results: %016" PRIx64 "\n", contest.checksum);
    return agree;
}

}  // namespace
}  // namespace tests
}  // namespace resq

int main(int argc, char** argv) {
    const bool quick = argc == 2 && std::strcmp(argv[1], "--quick") == 0;
    if (argc > 1 && !quick) {
        std::fprintf(stderr, "usage: %s [--quick]\n", argv[0]);
        return 2;
    }
    return resq::tests::compare_all(quick) ? 0 : 1;
}
