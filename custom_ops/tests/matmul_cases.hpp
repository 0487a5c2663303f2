// The cases of MixedPrecisionMatMul, and their inputs.
#pragma once

#include <functional>

#include "resq/matmul.hpp"
#include "values.hpp"

namespace resq::tests {

// Columns of one group of the parts, and the low part's bits.
struct Columns {
    std::int64_t groups, low, high;
    int low_bits = 4;
};

// Random; the largest possible sums, of either sign; or special numbers, such as NaN.
enum class Content { kRandom, kLowestWeights, kHighestWeights, kSpecial };

struct MatMulCase {
    Columns columns;
    std::int64_t rows, outputs;
    Content content = Content::kRandom;
    Float type = Float::kSingle;
    bool normalise = false, bias = false, residual = false;
    float low_clip = 1.0f;
    std::size_t misaligned = 0;  // offset of the weights from an aligned address, in bytes

    std::string name() const;
};

struct PartWeights {
    std::vector<std::uint8_t> bytes;
    std::vector<float> scales;
};

// Everything a case needs, in memory of the exact size.
struct MatMulInputs {
    MatMul matmul;
    PartWeights weights[2];
    std::vector<float> bias;
    Values x, residual;

    MatMulInputs(const MatMulCase& c, Random& random);

  private:
    void fill_part(const MatMulCase& c, int p, Random& random);
    void fill_x(const MatMulCase& c, Random& random);
};

// Visits the cases of a selection.
void each_matmul(const Selection& selection,
                 const std::function<void(const MatMulCase&, const MatMulInputs&)>& visit);

}  // namespace resq::tests
