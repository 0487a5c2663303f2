// What kernels use of their machine: a GPU, or a CPU that simulates one (RESQ_SIMT).
#pragma once

#include "resq/cuda.hpp"

#ifdef RESQ_SIMT
#include "simt/device.hpp"
#else
#include "device_gpu.cuh"
#endif

namespace resq::cuda {

constexpr unsigned kWarp = kWarpSize;

__device__ __forceinline__ unsigned lane_index() { return threadIdx.x % kWarp; }
__device__ __forceinline__ unsigned warp_index() { return threadIdx.x / kWarp; }

__device__ __forceinline__ float sum_of_warp(float x) {
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
        x += shuffle_xor(x, mask);
    }
    return x;
}
__device__ __forceinline__ float least_of_warp(float x) {
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
        x = fminf(x, shuffle_xor(x, mask));
    }
    return x;
}
__device__ __forceinline__ float greatest_of_warp(float x) {
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
        x = fmaxf(x, shuffle_xor(x, mask));
    }
    return x;
}

// Four floats from a 16-byte aligned address.
__device__ __forceinline__ void load_four(const float* from, float (&x)[4]) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    x[0] = float_of(words.x);
    x[1] = float_of(words.y);
    x[2] = float_of(words.z);
    x[3] = float_of(words.w);
}

// An element of an activation tensor, whose type is known at run time.
__device__ __forceinline__ float load(ConstFloats from, std::int64_t index) {
    switch (from.type) {
        case Float::kHalf:
            return to_float(static_cast<const Half*>(from.data)[index]);
        case Float::kBFloat16:
            return to_float(static_cast<const BFloat16*>(from.data)[index]);
        default:
            return static_cast<const float*>(from.data)[index];
    }
}
__device__ __forceinline__ void store(Floats to, std::int64_t index, float x) {
    switch (to.type) {
        case Float::kHalf:
            static_cast<Half*>(to.data)[index] = from_float<Half>(x);
            break;
        case Float::kBFloat16:
            static_cast<BFloat16*>(to.data)[index] = from_float<BFloat16>(x);
            break;
        default:
            static_cast<float*>(to.data)[index] = x;
    }
}

}  // namespace resq::cuda
