// CPU features for which no builtin works with every compiler.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

namespace resq::ort {

inline bool cpu_has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

// CPUID leaf 7, subleaf 1, EAX bit 4 (Intel's manual, volume 2A). The registers are those of AVX2.
inline bool cpu_has_avxvnni() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1u) != 0;
}

// The parts of AVX-512 that kernels_avx512vnni.cpp is compiled with.
inline bool cpu_has_avx512vnni() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

}  // namespace resq::ort

#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>

#include <cstddef>

namespace resq::ort {

// A macOS that does not know the name returns an error: the scalar kernels run.
inline bool cpu_has_dotprod() {
    int found = 0;
    std::size_t size = sizeof found;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0) == 0 &&
           found != 0;
}

}  // namespace resq::ort

#elif defined(__aarch64__)
#include <sys/auxv.h>

namespace resq::ort {

// HWCAP_ASIMDDP of Linux's <asm/hwcap.h>.
inline bool cpu_has_dotprod() { return (getauxval(AT_HWCAP) >> 20 & 1ul) != 0; }

}  // namespace resq::ort
#endif
