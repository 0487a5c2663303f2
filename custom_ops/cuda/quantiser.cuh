// Asymmetric quantisation, of activations and of cache records.
#pragma once

#include "device.cuh"

namespace resq::cuda {

// The smallest normal float32 replaces the scale 0 of all zeros.
constexpr float kSmallestScale = 1.17549435e-38f;

// The largest integer with this many bits.
__device__ __forceinline__ float top_of(int bits) { return bits == 4 ? 15.0f : 255.0f; }

// (max - min) / levels, with min <= 0 <= max.
__device__ __forceinline__ float scale_of(float smallest, float largest, float top) {
    const float scale = (largest - smallest) / top;
    return scale > kSmallestScale ? scale : kSmallestScale;
}

struct Quantiser {
    float scale, zero, top;

    // z = round(-min / s)
    static __device__ Quantiser of(float smallest, float scale, float top) {
        return {scale, rintf(-smallest / scale), top};
    }
    // round(x / s) + z, clipped.
    __device__ int operator()(float x) const {
        return static_cast<int>(fminf(fmaxf(rintf(x / scale) + zero, 0.0f), top));
    }
    __device__ int zero_point() const { return static_cast<int>(zero < top ? zero : top); }
};

}  // namespace resq::cuda
