// Pairs of 16-bit integers in registers of NEON: see pairs_scalar.hpp.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "vectors_neon.hpp"

namespace resq::RESQ_ISA {

constexpr int kPairLanes = 4;
constexpr int kScoreSums = 3;  // sums of sixteen scores that stay in registers, beside the keys
constexpr int kValueRows = 3;  // rows of queries whose sums of values stay in registers

struct P {
    int32x4_t v;
};

// Products of the lower and of the upper half of a register have sums of their own, as one
// instruction multiplies and adds four. Lanes are words: neighbours are added at the end.
struct PairSums {
    int32x4_t lower, upper;
};

inline P part_of(I x, int i) { return {x.v[i]}; }
inline I join(const P (&parts)[4]) { return {{parts[0].v, parts[1].v, parts[2].v, parts[3].v}}; }

inline P load_pairs(const std::int32_t* p) { return {vld1q_s32(p)}; }
inline void store_pairs(std::int32_t* p, P x) { vst1q_s32(p, x.v); }
inline P repeat(std::int32_t pair) { return {vdupq_n_s32(pair)}; }

inline P operator&(P a, P b) { return {vandq_s32(a.v, b.v)}; }
inline P operator>>(P a, int n) {
    return {vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.v), vdupq_n_s32(-n)))};
}
inline int16x8_t words_of(P x) { return vreinterpretq_s16_s32(x.v); }
inline P of_words(int16x8_t x) { return {vreinterpretq_s32_s16(x)}; }
inline P subtract_words(P a, P b) { return of_words(vsubq_s16(words_of(a), words_of(b))); }

inline P pairs_of_words(const std::uint8_t* a, const std::uint8_t* b) {
    const int16x4_t one = vreinterpret_s16_u8(vld1_u8(a)), other = vreinterpret_s16_u8(vld1_u8(b));
    return of_words(vcombine_s16(vzip1_s16(one, other), vzip2_s16(one, other)));
}
inline P pairs_of_bytes(const std::uint8_t* a, const std::uint8_t* b) {
    return of_words(vreinterpretq_s16_u16(vmovl_u8(vzip1_u8(vld1_u8(a), vld1_u8(b)))));
}

inline PairSums no_sums() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
inline PairSums dot(PairSums sums, P a, P b) {
    return {vmlal_s16(sums.lower, vget_low_s16(words_of(a)), vget_low_s16(words_of(b))),
            vmlal_high_s16(sums.upper, words_of(a), words_of(b))};
}
inline P total(PairSums sums) { return {vpaddq_s32(sums.lower, sums.upper)}; }
inline PairSums held(PairSums sums) { return sums; }

inline void store_turns(std::int32_t* out, const P (&x)[4]) {
    vst4q_s32(out, {{x[0].v, x[1].v, x[2].v, x[3].v}});
}

}  // namespace resq::RESQ_ISA
