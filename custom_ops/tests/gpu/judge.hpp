// How near a kernel for CUDA has to be to the scalar kernels for CPUs, and the record of it.
//
// The scalar kernels compute in float32, on numbers that the type under test holds exactly. A GPU
// may sum in another order; its exponential, sine and square root may end in another bit. A result
// in 16 bits is rounded once, at the end.
#pragma once

#include <cstdint>
#include <string>

#include "resq/tensors.hpp"

namespace resq::tests::gpu {

// Matrix products, as a share of |x| |w| + |bias| + |residual|, which bounds every term: integer
// sums are exact, and two products and a sum in float32 follow for each part and group.
constexpr double kMatMul = 2e-6;
// Rows of a case that has an RMS norm in which one activation may be rounded the other way: a mean
// or a square root that differs in its last bit moves one in millions of them. And what it moves:
// a step of 4 bits is this share of the largest activation.
constexpr std::int64_t kFlippedRows = 1;
constexpr double kStep = 2.0 / 15.0;
// Gated Hadamard, as a share of a row's length: sums of up to 1024 float32 products, and a sigmoid.
// One wrong sign of a factor moves a row by more than 1e-2.
constexpr double kHadamard = 1e-5;
// Projected queries, as a share of their length: sums of up to 256 float32 products.
constexpr double kQueries = 1e-5;
// Records, in steps of the number they hold: one, and what float32 makes of decoding it. A scale
// that falls to the other side of a bfloat16 moves all of a part by up to 2^-7 of it.
constexpr double kRecordSteps = 1.01, kRecordShare = 1.0 / 64.0;
// Attention over the same queries and records, as a share of the largest value attended to: the
// scalar kernels round queries and weights to 16 bits, which was seen to change 6e-5 of it where
// scores reach 50.
constexpr double kAttention = 2e-4, kScore = 50.0;
// The same on tensor cores, in roundings of 16 bits: queries, keys, weights and values are rounded,
// and the error of a score, in products of its terms, becomes one of its weight.
constexpr double kRoundings = 4.0;

// Half of what a significand leaves out: of float16 11 bits, of bfloat16 8.
constexpr double unit_roundoff(Float type) {
    return type == Float::kHalf ? 0x1p-11 : type == Float::kBFloat16 ? 0x1p-8 : 0x1p-24;
}

const char* name_of(Float type);

// Whether `found` is what some number within `tolerance` of `wanted` is rounded to. NaN and
// infinities have to be the same.
bool is_near(float found, float wanted, double tolerance, Float type);

// Ends the comparisons of an operator that stops at the first mismatch.
struct Stopped {};

// Comparisons of one operator in one type.
class Score {
  public:
    std::string name;
    std::int64_t comparisons = 0, mismatches = 0;
    bool stops = false;  // at the first mismatch

    explicit Score(const std::string& called) : name(called) {}

    // Counts a comparison, or throws Stopped; describes the first mismatches on standard error.
    void expect(bool holds, const std::string& what);
    // The same of all of `count` results, by a function that tells whether one is as it should be.
    template <typename Holds>
    void expect_all(std::int64_t count, const std::string& what, const Holds& holds) {
        std::int64_t i = 0;
        while (i < count && holds(i)) {
            ++i;
        }
        expect(i == count,
               what + ", element " + std::to_string(i) + " of " + std::to_string(count));
    }
};

}  // namespace resq::tests::gpu
