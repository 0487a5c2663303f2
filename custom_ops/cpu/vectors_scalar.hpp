// Sixteen lanes without vector instructions. The other vectors_*.hpp must match it bit for bit.
//
// F holds sixteen floats, I sixteen 32-bit integers. Kernels are written once, on these two types,
// and compiled for each instruction set. Sums over lanes always have the same order: lane i and i +
// 8, then i + 4, i + 2, i + 1. A result therefore does not depend on the instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.hpp"
#include "resq/matmul.hpp"

namespace resq::RESQ_ISA {

struct F {
    float lane[kLanes];
};
struct I {
    std::int32_t lane[kLanes];
};

// Applies an expression in `i` to every lane.
#define RESQ_EACH_LANE(Type, expression) \
    Type r;                              \
    for (int i = 0; i < kLanes; ++i) {   \
        r.lane[i] = (expression);        \
    }                                    \
    return r

inline F load(const float* p) { RESQ_EACH_LANE(F, p[i]); }
inline F broadcast(float x) { RESQ_EACH_LANE(F, x); }
inline F zero() { return broadcast(0.0f); }
inline void store(float* p, F x) { std::memcpy(p, x.lane, sizeof x.lane); }
// The first eight lanes.
inline void store_half(float* p, F x) { std::memcpy(p, x.lane, sizeof x.lane / 2); }

inline F operator+(F a, F b) { RESQ_EACH_LANE(F, a.lane[i] + b.lane[i]); }
inline F operator-(F a, F b) { RESQ_EACH_LANE(F, a.lane[i] - b.lane[i]); }
inline F operator*(F a, F b) { RESQ_EACH_LANE(F, a.lane[i] * b.lane[i]); }
inline F operator/(F a, F b) { RESQ_EACH_LANE(F, a.lane[i] / b.lane[i]); }
inline F min(F a, F b) { RESQ_EACH_LANE(F, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
inline F max(F a, F b) { RESQ_EACH_LANE(F, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
// b where a > limit, else 0.
inline F where_above(F a, F limit, F b) {
    RESQ_EACH_LANE(F, a.lane[i] > limit.lane[i] ? b.lane[i] : 0.0f);
}
// a * b + c, rounded once.
inline F fma(F a, F b, F c) { RESQ_EACH_LANE(F, std::fma(a.lane[i], b.lane[i], c.lane[i])); }
// To the nearest whole number, ties to even.
inline F round(F a) { RESQ_EACH_LANE(F, std::nearbyint(a.lane[i])); }

inline I load(const std::int32_t* p) { RESQ_EACH_LANE(I, p[i]); }
inline I broadcast(std::int32_t x) { RESQ_EACH_LANE(I, x); }
inline void store(std::int32_t* p, I x) { std::memcpy(p, x.lane, sizeof x.lane); }
inline I operator+(I a, I b) { RESQ_EACH_LANE(I, a.lane[i] + b.lane[i]); }
inline I operator-(I a, I b) { RESQ_EACH_LANE(I, a.lane[i] - b.lane[i]); }
inline I operator*(I a, I b) { RESQ_EACH_LANE(I, a.lane[i] * b.lane[i]); }
inline I operator&(I a, I b) { RESQ_EACH_LANE(I, a.lane[i] & b.lane[i]); }
inline I operator^(I a, I b) { RESQ_EACH_LANE(I, a.lane[i] ^ b.lane[i]); }
inline I operator<<(I a, int n) {
    RESQ_EACH_LANE(I, static_cast<std::int32_t>(static_cast<std::uint32_t>(a.lane[i]) << n));
}
// Fills with zeros.
inline I operator>>(I a, int n) {
    RESQ_EACH_LANE(I, static_cast<std::int32_t>(static_cast<std::uint32_t>(a.lane[i]) >> n));
}

inline F to_float(I a) { RESQ_EACH_LANE(F, static_cast<float>(a.lane[i])); }
// For whole numbers that fit.
inline I to_int(F a) { RESQ_EACH_LANE(I, static_cast<std::int32_t>(a.lane[i])); }
// The nearest integer, ties to even. The low word of what does not fit, or of NaN, is 0.
inline I nearest(F a) {
    RESQ_EACH_LANE(I, std::fabs(a.lane[i]) < 0x1p31f
                          ? static_cast<std::int32_t>(std::nearbyint(a.lane[i]))
                          : 0);
}
inline I as_int(F a) {
    I r;
    std::memcpy(&r, &a, sizeof r);
    return r;
}
inline F as_float(I a) {
    F r;
    std::memcpy(&r, &a, sizeof r);
    return r;
}

#undef RESQ_EACH_LANE

// The low byte, or the low two bytes, of every lane.
inline void store_bytes(std::uint8_t* p, I a) {
    for (int i = 0; i < kLanes; ++i) {
        p[i] = static_cast<std::uint8_t>(a.lane[i]);
    }
}
// The low bytes of lanes that are columns of a 4-bit segment, in their places there.
inline void store_nibble_places(std::uint8_t* p, I a) {
    for (int i = 0; i < kLanes; ++i) {
        p[nibble_place(i)] = static_cast<std::uint8_t>(a.lane[i]);
    }
}
inline void store_words(std::uint16_t* p, I a) {
    for (int i = 0; i < kLanes; ++i) {
        p[i] = static_cast<std::uint16_t>(a.lane[i]);
    }
}
// The low nibble of every byte, signed.
inline I signed_nibbles(I a) {
    std::int8_t bytes[sizeof a];
    std::memcpy(bytes, &a, sizeof a);
    for (std::int8_t& byte : bytes) {
        byte = static_cast<std::int8_t>(((byte & 15) ^ 8) - 8);
    }
    std::memcpy(&a, bytes, sizeof a);
    return a;
}
inline float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000u) << 16;
    const std::uint32_t exponent = (half >> 10) & 31u;
    const std::uint32_t fraction = half & 0x3FFu;
    if (exponent == 0) {
        const float value = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    const std::uint32_t bits = sign | wide << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
// To the nearest, ties to even.
inline std::uint16_t float_to_half(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u) {
        return static_cast<std::uint16_t>(sign | 0x7E00u | ((bits >> 13) & 0x3FFu));
    }
    if (bits < 0x38800000u) {  // below 2^-14: a multiple of 2^-24
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        return static_cast<std::uint16_t>(
            sign | static_cast<std::uint16_t>(std::nearbyint(magnitude * 0x1p24f)));
    }
    const std::uint32_t rounded = bits + 0xFFFu + ((bits >> 13) & 1u);
    if (rounded >= 0x47800000u) {  // 2^16 and above
        return static_cast<std::uint16_t>(sign | 0x7C00u);
    }
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}
inline F load(const std::uint16_t* half) {
    F r;
    for (int i = 0; i < kLanes; ++i) {
        r.lane[i] = half_to_float(half[i]);
    }
    return r;
}
inline void store(std::uint16_t* half, F x) {
    for (int i = 0; i < kLanes; ++i) {
        half[i] = float_to_half(x.lane[i]);
    }
}

inline float sum(F a) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) {
            a.lane[i] += a.lane[i + half];
        }
    }
    return a.lane[0];
}
inline float least(F a) {
    float r = a.lane[0];
    for (int i = 1; i < kLanes; ++i) {
        r = a.lane[i] < r ? a.lane[i] : r;
    }
    return r;
}
inline float greatest(F a) {
    float r = a.lane[0];
    for (int i = 1; i < kLanes; ++i) {
        r = a.lane[i] > r ? a.lane[i] : r;
    }
    return r;
}

// The sum of all lanes, which fits.
inline std::int32_t sum(I a) {
    std::int32_t all = 0;
    for (const std::int32_t lane : a.lane) {
        all += lane;
    }
    return all;
}

// Reads 16 bytes from each of sixteen rows: lane i of columns[j] is the j-th dword of row i.
inline void transpose_dwords(const void* rows, std::int64_t stride, I columns[4]) {
    const auto* base = static_cast<const std::uint8_t*>(rows);
    for (int i = 0; i < kLanes; ++i) {
        for (int j = 0; j < 4; ++j) {
            std::memcpy(&columns[j].lane[i], base + i * stride + 4 * j, 4);
        }
    }
}

}  // namespace resq::RESQ_ISA
