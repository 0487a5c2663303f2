// MixedPrecisionMatMul: which cases there are, and random inputs for them.
#include "matmul_cases.hpp"

#include <limits>

namespace resq::tests {
namespace {

// A special row has one of these among ordinary numbers.
const float kSpecial[] = {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), 3e38f, -3e38f};

// AVX2 widens its 16-bit sums every 544 columns of a panel and every 2,304 of a stream.
const Columns kColumns[] = {
    {1, 1, 0},      {1, 2, 0},      {1, 7, 0},    {1, 0, 1},     {1, 0, 5},      {1, 2, 3},
    {1, 16, 16},    {1, 33, 0},     {1, 64, 8},   {1, 0, 600},   {1, 504, 72},   {1, 545, 3},
    {3, 20, 4},     {3, 5, 3},      {9, 7, 1},    {9, 56, 8},    {1, 64, 64, 8}, {1, 33, 7, 8},
    {3, 20, 12, 8}, {1, 1344, 192}, {1, 2300, 0}, {1, 2402, 30},
};

MatMulCase any_options(const Columns& columns, std::int64_t rows, std::int64_t outputs,
                       Random& random) {
    MatMulCase c{columns, rows, outputs};
    c.type = random.one_in(3) ? Float::kHalf : Float::kSingle;
    c.normalise = columns.groups == 1 && random.one_in(2);
    c.bias = random.one_in(2);
    c.residual = random.one_in(2);
    c.low_clip = random.one_in(3) ? 0.85f : 1.0f;
    c.misaligned = random.one_in(4) ? 1 : 0;
    return c;
}

}  // namespace

std::string MatMulCase::name() const {
    const auto text = [](std::int64_t number) { return std::to_string(number); };
    return "matmul rows=" + text(rows) + " outputs=" + text(outputs) +
           " groups=" + text(columns.groups) + " low=" + text(columns.low) + " (" +
           text(columns.low_bits) + " bits) high=" + text(columns.high) +
           " content=" + text(static_cast<int>(content)) +
           (type == Float::kHalf ? " float16" : "") + (normalise ? " norm" : "") +
           (low_clip < 1.0f ? " clip" : "") + (bias ? " bias" : "") + (residual ? " residual" : "");
}

MatMulInputs::MatMulInputs(const MatMulCase& c, Random& random) {
    matmul.outputs = c.outputs;
    matmul.groups = c.columns.groups;
    matmul.parts[0].bits = c.columns.low_bits;
    matmul.parts[0].width = c.columns.low;
    matmul.parts[1].bits = 8;
    matmul.parts[1].width = c.columns.high;
    for (int p = 0; p < 2; ++p) {
        fill_part(c, p, random);
    }
    matmul.parts[0].clip = c.low_clip;
    matmul.normalise = c.normalise;
    matmul.epsilon = 1e-5f;
    if (c.bias) {
        bias = random_floats(c.outputs, random);
        matmul.bias = bias.data();
    }
    fill_x(c, random);
    if (c.residual) {
        residual = Values::random(c.type, c.rows * c.outputs, random);
    }
}

void MatMulInputs::fill_part(const MatMulCase& c, int p, Random& random) {
    Part& part = matmul.parts[p];
    if (part.width == 0) {
        return;
    }
    const std::int64_t count = c.outputs * c.columns.groups * part.width;
    const auto bytes = static_cast<std::size_t>((count * part.bits + 7) / 8);
    weights[p].bytes.resize(bytes + c.misaligned);
    for (std::uint8_t& byte : weights[p].bytes) {
        if (c.content == Content::kLowestWeights) {
            byte = part.bits == 4 ? 0x88 : 0x80;
        } else if (c.content == Content::kHighestWeights) {
            byte = part.bits == 4 ? 0x77 : 0x7F;
        } else {
            byte = static_cast<std::uint8_t>(random.below(256));
        }
    }
    weights[p].scales = random_floats(c.outputs, random);
    part.weights = weights[p].bytes.data() + c.misaligned;
    part.scales = weights[p].scales.data();
}

void MatMulInputs::fill_x(const MatMulCase& c, Random& random) {
    const std::int64_t columns = matmul.columns();
    x = Values::random(c.type, c.rows * columns, random);
    if (c.content == Content::kLowestWeights || c.content == Content::kHighestWeights) {
        for (std::size_t i = 0; i < x.singles.size(); ++i) {
            const bool odd = static_cast<std::int64_t>(i) / columns % 2 != 0;
            x.singles[i] = odd ? -1.0f : 1.0f;  // all at the highest level, or all at the lowest
        }
    }
    if (c.content != Content::kSpecial || c.type != Float::kSingle) {
        return;
    }
    for (std::int64_t row = 0; row < c.rows; ++row) {
        const auto begin = x.singles.begin() + row * columns;
        if (row % 7 == 0) {  // zeros of both signs
            for (std::int64_t k = 0; k < columns; ++k) {
                begin[k] = random.one_in(2) ? -0.0f : 0.0f;
            }
        } else if (row % 7 == 1) {  // numbers so small that the scale is the smallest one
            for (std::int64_t k = 0; k < columns; ++k) {
                begin[k] *= 0x1p-127f;
            }
        } else {
            begin[random.below(columns)] = kSpecial[row % 7 - 2];
        }
    }
}

void each_matmul(const Selection& selection,
                 const std::function<void(const MatMulCase&, const MatMulInputs&)>& visit) {
    const auto with_inputs = [&visit](const MatMulCase& c, Random& random) {
        visit(c, MatMulInputs(c, random));
    };
    Random random(selection.seed + 1);
    for (const Columns& columns : kColumns) {
        for (const std::int64_t rows :
             {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 40}) {
            for (const std::int64_t outputs : {1, 5, 15, 16, 17, 63, 64, 65, 100}) {
                if (selection.quick && !random.one_in(16)) {
                    continue;
                }
                with_inputs(any_options(columns, rows, outputs, random), random);
            }
        }
        for (const Content content :
             {Content::kLowestWeights, Content::kHighestWeights, Content::kSpecial}) {
            MatMulCase c = any_options(columns, 9, 33, random);
            c.type = Float::kSingle;
            c.content = content;
            with_inputs(c, random);
        }
    }
    Random wide(selection.seed + 2);
    for (const Columns& columns : {Columns{1, 4700, 0}, Columns{1, 0, 9000}}) {
        for (const Content content :
             {Content::kRandom, Content::kLowestWeights, Content::kHighestWeights}) {
            MatMulCase c{columns, 5, 17};
            c.content = content;
            with_inputs(c, wide);
        }
    }
}

}  // namespace resq::tests
