// Queries the CPU once; kernels never do.
#include "dispatch.hpp"

#include <cstdlib>
#include <cstring>
#include <iterator>

#include "cpu_features.hpp"
#include "node.hpp"
#include "resq/export.h"
#include "resq/isa.h"
#include "resq/kernel_tables.hpp"

namespace resq::ort {
namespace {

struct Candidate {
    const Kernels& kernels;
    bool (*runs_here)();
};

// Best first; the scalar kernels run everywhere.
const Candidate kCandidates[] = {
#ifdef RESQ_ISA_AVX512VNNI
    {kAvx512VnniKernels, cpu_has_avx512vnni},
#endif
#ifdef RESQ_ISA_AVXVNNI
    {kAvxVnniKernels, [] { return cpu_has_avx2() && cpu_has_avxvnni(); }},
#endif
#ifdef RESQ_ISA_AVX2
    {kAvx2Kernels, cpu_has_avx2},
#endif
#ifdef RESQ_ISA_NEON
    {kNeonKernels, cpu_has_dotprod},
#endif
    {kScalarKernels, [] { return true; }},
};

std::string find_available() {
    std::string names;
    for (const Candidate& candidate : kCandidates) {
        if (candidate.runs_here()) {
            names += (names.empty() ? "" : ",") + std::string(candidate.kernels.name);
        }
    }
    return names;
}

const Kernels* choose() {
    const char* wanted = std::getenv("RESQ_ONNX_ISA");
    const bool any = wanted == nullptr || *wanted == '\0';
    for (const Candidate& candidate : kCandidates) {
        if (candidate.runs_here() && (any || std::strcmp(wanted, candidate.kernels.name) == 0)) {
            return &candidate.kernels;
        }
    }
    return nullptr;
}

const Kernels* chosen() {
    static const Kernels* const kernels = choose();
    return kernels;
}

}  // namespace

const std::string& available_kernels() {
    static const std::string names = find_available();
    return names;
}

const Kernels& kernels() {
    const Kernels* found = chosen();
    if (found == nullptr) {
        refuse("RESQ_ONNX_ISA", "'" + std::string(std::getenv("RESQ_ONNX_ISA")) + "'",
               "one of " + available_kernels());
    }
    return *found;
}

}  // namespace resq::ort

const char* resq_onnx_isa() {
    const resq::Kernels* found = resq::ort::chosen();
    return found == nullptr ? "" : found->name;
}

const char* resq_onnx_available_isas() { return resq::ort::available_kernels().c_str(); }
