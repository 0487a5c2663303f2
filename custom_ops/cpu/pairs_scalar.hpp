// Pairs of 16-bit integers without vector instructions: the reference for the other pairs_*.hpp.
//
// P is a register whose 32-bit lanes hold two signed words each. Its products with another P are
// added lane by lane, which is exact, so that nothing depends on their order.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.hpp"
#include "vectors_scalar.hpp"

namespace resq::RESQ_ISA {

constexpr int kPairLanes = kLanes;
constexpr int kScoreSums = 2;  // sums of sixteen scores that stay in registers, beside the keys
constexpr int kValueRows = 2;  // rows of queries whose sums of values stay in registers

using P = I;
using PairSums = I;  // what products are added to

// Register number `i` of sixteen lanes, and sixteen lanes of registers.
inline P part_of(I x, int /*i*/) { return x; }
inline I join(const P (&parts)[1]) { return parts[0]; }

inline P load_pairs(const std::int32_t* p) { return load(p); }
inline void store_pairs(std::int32_t* p, P x) { store(p, x); }
inline P repeat(std::int32_t pair) { return broadcast(pair); }

inline std::int32_t low_word(std::int32_t x) { return static_cast<std::int16_t>(x); }
inline std::int32_t high_word(std::int32_t x) { return static_cast<std::int16_t>(x >> 16); }
inline std::int32_t pair_of(std::int32_t low, std::int32_t high) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(low & 0xFFFF) |
                                     static_cast<std::uint32_t>(high) << 16);
}

inline P subtract_words(P a, P b) {
    P r;
    for (int i = 0; i < kLanes; ++i) {
        r.lane[i] = pair_of(low_word(a.lane[i]) - low_word(b.lane[i]),
                            high_word(a.lane[i]) - high_word(b.lane[i]));
    }
    return r;
}

// Word, or byte, i of `a` and that of `b` in lane i.
inline P pairs_of_words(const std::uint8_t* a, const std::uint8_t* b) {
    P r;
    for (int i = 0; i < kLanes; ++i) {
        std::int16_t words[2];
        std::memcpy(words, a + 2 * i, 2);
        std::memcpy(words + 1, b + 2 * i, 2);
        r.lane[i] = pair_of(words[0], words[1]);
    }
    return r;
}
inline P pairs_of_bytes(const std::uint8_t* a, const std::uint8_t* b) {
    P r;
    for (int i = 0; i < kLanes; ++i) {
        r.lane[i] = pair_of(a[i], b[i]);
    }
    return r;
}

inline PairSums no_sums() { return broadcast(0); }
// sums + low word of a · low word of b + high word of a · high word of b.
inline PairSums dot(PairSums sums, P a, P b) {
    for (int i = 0; i < kLanes; ++i) {
        sums.lane[i] +=
            low_word(a.lane[i]) * low_word(b.lane[i]) + high_word(a.lane[i]) * high_word(b.lane[i]);
    }
    return sums;
}
inline P total(PairSums sums) { return sums; }
// The same sums, which the compiler has to finish here. Otherwise it computes many products first
// and runs out of registers.
inline PairSums held(PairSums sums) { return sums; }

// Lanes in turns: out[4 * lane + i] is a lane of x[i].
inline void store_turns(std::int32_t* out, const P (&x)[4]) {
    for (int lane = 0; lane < kPairLanes; ++lane) {
        for (int i = 0; i < 4; ++i) {
            out[4 * lane + i] = x[i].lane[lane];
        }
    }
}

}  // namespace resq::RESQ_ISA
