// Sixteen lanes as four registers of NEON: see vectors_scalar.hpp.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "lanes.hpp"

namespace resq::RESQ_ISA {

struct F {
    float32x4_t v[4];
};
struct I {
    int32x4_t v[4];
};

// Applies an expression in `i` to each register.
#define RESQ_EACH_VECTOR(Type, expression) \
    Type r;                                \
    for (int i = 0; i < 4; ++i) {          \
        r.v[i] = (expression);             \
    }                                      \
    return r

inline F load(const float* p) { RESQ_EACH_VECTOR(F, vld1q_f32(p + 4 * i)); }
inline F broadcast(float x) { RESQ_EACH_VECTOR(F, vdupq_n_f32(x)); }
inline F zero() { return broadcast(0.0f); }
inline void store(float* p, F x) {
    for (int i = 0; i < 4; ++i) {
        vst1q_f32(p + 4 * i, x.v[i]);
    }
}
inline void store_half(float* p, F x) {
    vst1q_f32(p, x.v[0]);
    vst1q_f32(p + 4, x.v[1]);
}

inline F operator+(F a, F b) { RESQ_EACH_VECTOR(F, vaddq_f32(a.v[i], b.v[i])); }
inline F operator-(F a, F b) { RESQ_EACH_VECTOR(F, vsubq_f32(a.v[i], b.v[i])); }
inline F operator*(F a, F b) { RESQ_EACH_VECTOR(F, vmulq_f32(a.v[i], b.v[i])); }
inline F operator/(F a, F b) { RESQ_EACH_VECTOR(F, vdivq_f32(a.v[i], b.v[i])); }

// Not vminq and vmaxq: they return NaN if one operand is NaN, and order zeros by sign.
inline float32x4_t lesser(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline float32x4_t greater(float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
inline F min(F a, F b) { RESQ_EACH_VECTOR(F, lesser(a.v[i], b.v[i])); }
inline F max(F a, F b) { RESQ_EACH_VECTOR(F, greater(a.v[i], b.v[i])); }
inline F where_above(F a, F limit, F b) {
    RESQ_EACH_VECTOR(F, vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(a.v[i], limit.v[i]),
                                                        vreinterpretq_u32_f32(b.v[i]))));
}
inline F fma(F a, F b, F c) { RESQ_EACH_VECTOR(F, vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
inline F round(F a) { RESQ_EACH_VECTOR(F, vrndnq_f32(a.v[i])); }

inline I load(const std::int32_t* p) { RESQ_EACH_VECTOR(I, vld1q_s32(p + 4 * i)); }
inline I broadcast(std::int32_t x) { RESQ_EACH_VECTOR(I, vdupq_n_s32(x)); }
inline void store(std::int32_t* p, I x) {
    for (int i = 0; i < 4; ++i) {
        vst1q_s32(p + 4 * i, x.v[i]);
    }
}
inline I operator+(I a, I b) { RESQ_EACH_VECTOR(I, vaddq_s32(a.v[i], b.v[i])); }
inline I operator-(I a, I b) { RESQ_EACH_VECTOR(I, vsubq_s32(a.v[i], b.v[i])); }
inline I operator*(I a, I b) { RESQ_EACH_VECTOR(I, vmulq_s32(a.v[i], b.v[i])); }
inline I operator&(I a, I b) { RESQ_EACH_VECTOR(I, vandq_s32(a.v[i], b.v[i])); }
inline I operator^(I a, I b) { RESQ_EACH_VECTOR(I, veorq_s32(a.v[i], b.v[i])); }
inline I operator<<(I a, int n) { RESQ_EACH_VECTOR(I, vshlq_s32(a.v[i], vdupq_n_s32(n))); }
// A left shift of unsigned lanes by -n, which fills with zeros.
inline I operator>>(I a, int n) {
    RESQ_EACH_VECTOR(
        I, vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.v[i]), vdupq_n_s32(-n))));
}

inline F to_float(I a) { RESQ_EACH_VECTOR(F, vcvtq_f32_s32(a.v[i])); }
inline I to_int(F a) { RESQ_EACH_VECTOR(I, vcvtq_s32_f32(a.v[i])); }
inline F as_float(I a) { RESQ_EACH_VECTOR(F, vreinterpretq_f32_s32(a.v[i])); }
inline I as_int(F a) { RESQ_EACH_VECTOR(I, vreinterpretq_s32_f32(a.v[i])); }
inline I nearest(F a) { RESQ_EACH_VECTOR(I, vcvtnq_s32_f32(a.v[i])); }

// The low 16 bits of lanes 0 to 7, or 8 to 15.
inline int16x8_t words_of(I x, int half) {
    return vcombine_s16(vmovn_s32(x.v[2 * half]), vmovn_s32(x.v[2 * half + 1]));
}
inline void store_words(std::uint16_t* p, I x) {
    vst1q_u16(p, vreinterpretq_u16_s16(words_of(x, 0)));
    vst1q_u16(p + 8, vreinterpretq_u16_s16(words_of(x, 1)));
}
inline uint8x16_t bytes_of(I x) {
    return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(words_of(x, 0)), vmovn_s16(words_of(x, 1))));
}
inline void store_bytes(std::uint8_t* p, I x) { vst1q_u8(p, bytes_of(x)); }
inline void store_nibble_places(std::uint8_t* p, I x) {
    constexpr std::uint8_t kSource[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
    vst1q_u8(p, vqtbl1q_u8(bytes_of(x), vld1q_u8(kSource)));
}
inline I signed_nibbles(I x) {
    RESQ_EACH_VECTOR(
        I, vreinterpretq_s32_s8(vshrq_n_s8(vshlq_n_s8(vreinterpretq_s8_s32(x.v[i]), 4), 4)));
}

inline F load(const std::uint16_t* half) {
    RESQ_EACH_VECTOR(F, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half + 4 * i))));
}
inline void store(std::uint16_t* half, F x) {
    for (int i = 0; i < 4; ++i) {
        vst1_u16(half + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
    }
}

// Reduces all lanes: lane i with i + 8, then i + 4, i + 2, i + 1.
template <typename Combine>
inline float halves(F x, Combine combine) {
    float32x4_t r = combine(combine(x.v[0], x.v[2]), combine(x.v[1], x.v[3]));
    r = combine(r, vextq_f32(r, r, 2));
    return vgetq_lane_f32(combine(r, vextq_f32(r, r, 1)), 0);
}
inline float sum(F x) {
    return halves(x, [](float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); });
}
inline float least(F x) { return halves(x, lesser); }
inline float greatest(F x) { return halves(x, greater); }

inline std::int32_t sum(I x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
}

inline void transpose_dwords(const void* rows, std::int64_t stride, I columns[4]) {
    const auto* base = static_cast<const std::uint8_t*>(rows);
    for (int quarter = 0; quarter < 4; ++quarter) {
        int32x4_t row[4];
        for (int i = 0; i < 4; ++i) {
            row[i] = vreinterpretq_s32_u8(vld1q_u8(base + (4 * quarter + i) * stride));
        }
        const int64x2_t low01 = vreinterpretq_s64_s32(vzip1q_s32(row[0], row[1]));
        const int64x2_t low23 = vreinterpretq_s64_s32(vzip1q_s32(row[2], row[3]));
        const int64x2_t high01 = vreinterpretq_s64_s32(vzip2q_s32(row[0], row[1]));
        const int64x2_t high23 = vreinterpretq_s64_s32(vzip2q_s32(row[2], row[3]));
        columns[0].v[quarter] = vreinterpretq_s32_s64(vzip1q_s64(low01, low23));
        columns[1].v[quarter] = vreinterpretq_s32_s64(vzip2q_s64(low01, low23));
        columns[2].v[quarter] = vreinterpretq_s32_s64(vzip1q_s64(high01, high23));
        columns[3].v[quarter] = vreinterpretq_s32_s64(vzip2q_s64(high01, high23));
    }
}

#undef RESQ_EACH_VECTOR

}  // namespace resq::RESQ_ISA
