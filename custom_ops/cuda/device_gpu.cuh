// What kernels use of a GPU: instructions that C++ lacks, and launching. Its twin for the CPU is
// simt/device.hpp.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "resq/cuda.hpp"

// Unrolls loops over arrays, which stay in registers only if every index is a constant.
#define RESQ_UNROLL _Pragma("unroll")

namespace resq::cuda {

constexpr int kWarpSize = 32;

// --- Numbers ------------------------------------------------------------------------------------

using Half = __half;
using BFloat16 = __nv_bfloat16;

__device__ __forceinline__ float float_of(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ std::uint32_t bits_of(float x) { return __float_as_uint(x); }

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(BFloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ Half from_float<Half>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// Two numbers side by side, the first in the lower half.
template <typename T>
__device__ __forceinline__ unsigned pack(float first, float second);
template <>
__device__ __forceinline__ unsigned pack<Half>(float first, float second) {
    unsigned packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
    return packed;
}
template <>
__device__ __forceinline__ unsigned pack<BFloat16>(float first, float second) {
    unsigned packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
    return packed;
}

__device__ __forceinline__ int dp4a(int a, int b, int sum) { return __dp4a(a, b, sum); }

// --- Within a warp ------------------------------------------------------------------------------

template <typename T>
__device__ __forceinline__ T shuffle(T value, int source) {
    return __shfl_sync(0xFFFFFFFFu, value, source);
}
template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}

// --- Memory -------------------------------------------------------------------------------------

template <typename T>
__device__ __forceinline__ T* shared_memory() {
    extern __shared__ __align__(128) unsigned char resq_shared[];
    return reinterpret_cast<T*>(resq_shared);
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Copies kBytes to shared memory: `valid` bytes from `source`, then zeros.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* target, const void* source, int valid) {
    static_assert(kBytes == 4 || kBytes == 16, "the sizes in use");
    if constexpr (kBytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)),
                     "l"(__cvta_generic_to_global(source)), "r"(valid)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(target)),
                     "l"(__cvta_generic_to_global(source)), "r"(valid)
                     : "memory");
    }
}
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most kGroups of the committed groups are pending.
template <int kGroups>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Loads sixteen bytes that are not needed again soon.
__device__ __forceinline__ uint4 load_once(const void* source) {
    uint4 value;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
        : "l"(__cvta_generic_to_global(source)));
    return value;
}

// --- Matrices -----------------------------------------------------------------------------------

// ldmatrix.x4: four matrices of 8 rows of 16 bytes; lane i passes the address of row i % 8 of
// matrix i / 8.
__device__ __forceinline__ void load_matrices(unsigned (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// The same, each matrix of 8 times 8 elements of 16 bits transposed.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// C (16, 8) += A (16, 32) · B (32, 8), signed bytes.
__device__ __forceinline__ void mma_bytes(int (&c)[4], const unsigned (&a)[4], unsigned b0,
                                          unsigned b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Ampere and Ada have 4-bit tensor cores; later GPUs emulate them with many instructions.
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
constexpr bool kHasNibbleUnits = true;
#else
constexpr bool kHasNibbleUnits = false;
#endif

// C (16, 8) += A (16, 64) · B (64, 8), A unsigned and B signed 4-bit numbers. Does nothing without
// 4-bit units.
__device__ __forceinline__ void mma_nibbles(int (&c)[4], const unsigned (&a)[4], unsigned b0,
                                            unsigned b1) {
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
    asm("mma.sync.aligned.m16n8k64.row.col.s32.u4.s4.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// C (16, 8) += A (16, 16) · B (16, 8), float16 or bfloat16, sums in float32.
template <typename T>
__device__ __forceinline__ void mma_halves(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                           unsigned b1);
template <>
__device__ __forceinline__ void mma_halves<Half>(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                                 unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma_halves<BFloat16>(float (&c)[4], const unsigned (&a)[4],
                                                     unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- Launching ----------------------------------------------------------------------------------

// Shared memory that a kernel may use without an attribute.
constexpr std::size_t kUsualSharedBytes = 48 * 1024;

inline void note(cudaError_t status, Queue& queue) {
    if (status != cudaSuccess && queue.error == nullptr) {
        queue.error = cudaGetErrorString(status);  // static text of the CUDA runtime
    }
}

template <typename... Parameters, typename... Arguments>
inline void launch(void (*kernel)(Parameters...), unsigned grid_x, unsigned grid_y,
                   unsigned threads, std::size_t shared_bytes, Queue& queue,
                   Arguments... arguments) {
    if (shared_bytes > kUsualSharedBytes) {
        note(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes)),
             queue);
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid_x, grid_y, 1);
    config.blockDim = dim3(threads, 1, 1);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(queue.stream);
    note(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), queue);
}

// Copies rows within GPU memory and fills the rest of each row with zeros.
inline void copy_rows(void* target, std::size_t target_bytes, const void* source,
                      std::size_t source_bytes, std::size_t rows, Queue& queue) {
    auto* stream = static_cast<cudaStream_t>(queue.stream);
    if (source_bytes > 0 && rows > 0) {
        note(cudaMemcpy2DAsync(target, target_bytes, source, source_bytes, source_bytes, rows,
                               cudaMemcpyDeviceToDevice, stream),
             queue);
    }
    if (target_bytes > source_bytes && rows > 0) {
        note(cudaMemset2DAsync(static_cast<char*>(target) + source_bytes, target_bytes, 0,
                               target_bytes - source_bytes, rows, stream),
             queue);
    }
}

}  // namespace resq::cuda
