// MixedPrecisionMatMul: few rows and many, as plan_of chooses.
#include <cmath>

#include "compare.hpp"
#include "matmul_cases.hpp"
#include "scalar.hpp"

namespace resq::tests::gpu {
namespace {

using Doubles = std::vector<double>;

// The length of each output's weights, scales included.
Doubles weight_lengths(const MatMul& m) {
    Doubles squares(static_cast<std::size_t>(m.outputs));
    for (const Part& part : m.parts) {
        const std::int64_t row = m.groups * part.width;
        for (std::int64_t i = 0; i < m.outputs * row; ++i) {
            const int byte = part.weights[i * part.bits / 8];
            const int nibble = (byte >> i % 2 * 4 & 15) ^ 8;
            const int integer = part.bits == 4 ? nibble - 8 : (byte ^ 128) - 128;
            const double weight = integer * static_cast<double>(part.scales[i / row]);
            squares[static_cast<std::size_t>(i / row)] += weight * weight;
        }
    }
    for (double& one : squares) {
        one = std::sqrt(one);
    }
    return squares;
}

// The length of each row of x, after its norm. NaN is quantised to an end of the row's range.
Doubles row_lengths(const MatMul& m, const Floats32& x) {
    const auto columns = static_cast<std::size_t>(m.columns());
    Doubles lengths;
    for (std::size_t begin = 0; begin < x.size(); begin += columns) {
        double largest = 0.0, squares = 0.0;
        for (std::size_t i = begin; i < begin + columns; ++i) {
            largest = std::fmax(largest, std::abs(static_cast<double>(x[i])));
        }
        for (std::size_t i = begin; i < begin + columns; ++i) {
            const double one = std::isnan(x[i]) ? largest : static_cast<double>(x[i]);
            squares += one * one;
        }
        const double mean = squares / static_cast<double>(columns);
        const double norm = mean + static_cast<double>(m.epsilon);
        lengths.push_back(std::sqrt(m.normalise ? squares / norm : squares));
    }
    return lengths;
}

Floats32 on_gpu(const MatMulCase& c, const MatMulInputs& in, const Values& x,
                const Values& residual, Memory& memory) {
    MatMul m = in.matmul;
    for (int p = 0; p < 2; ++p) {
        if (m.parts[p].width > 0) {
            m.parts[p].weights = memory.upload(in.weights[p].bytes) + c.misaligned;
            m.parts[p].scales = memory.upload(in.weights[p].scales);
        }
    }
    m.bias = c.bias ? memory.upload(in.bias) : nullptr;
    const char* error = nullptr;
    const cuda::Plan plan = cuda::plan_of(m, c.rows, cuda::this_gpu(&error));
    const std::size_t row_bytes = cuda::row_bytes(m, plan);
    const auto rows = static_cast<std::size_t>(c.rows);
    const auto segments = rows * static_cast<std::size_t>(m.segments());
    const Activations activations{memory.make<std::uint8_t>(rows * row_bytes),
                                  memory.make<float>(segments), memory.make<std::int32_t>(segments),
                                  row_bytes};
    const GpuValues from(memory, x), added(memory, residual);
    const GpuValues y(memory, x.type, c.rows * c.outputs);
    memory.stream().launch([&](cuda::Queue& queue) {
        cuda::quantise_rows(m, plan, from.read(), c.rows, activations, queue);
        cuda::multiply(m, plan, c.rows, activations, {y.write(), added.read()}, queue);
    });
    return y.download();
}

void judge(const MatMulCase& c, const MatMulInputs& in, const Floats32& x, const Floats32& residual,
           const Floats32& found, Float type, Score& score) {
    const MatMul& m = in.matmul;
    const Floats32 wanted = scalar_matmul(m, x, residual, c.rows);
    const Doubles weights = weight_lengths(m), rows = row_lengths(m, x);
    const auto outputs = static_cast<std::size_t>(c.outputs);
    // Whether a row's results are within a share of all that is summed up for them.
    const auto holds = [&](std::size_t row, double share) {
        for (std::size_t i = 0; i < outputs; ++i) {
            const std::size_t at = row * outputs + i;
            double size = rows[row] * weights[i];
            size += c.bias ? std::abs(static_cast<double>(in.bias[i])) : 0.0;
            size += c.residual ? std::abs(static_cast<double>(residual[at])) : 0.0;
            if (!is_near(found[at], wanted[at], share * size, type)) {
                return false;
            }
        }
        return true;
    };
    std::int64_t flipped = 0;
    score.expect_all(c.rows, c.name(), [&](std::int64_t i) {
        const auto row = static_cast<std::size_t>(i);
        return holds(row, kMatMul) ||
               (m.normalise && ++flipped <= kFlippedRows && holds(row, kStep));
    });
}

}  // namespace

void compare_matmuls(const Choice& choice, Score& score) {
    Stream stream;
    Sample sample(choice.every);
    each_matmul(choice.cases, [&](const MatMulCase& c, const MatMulInputs& in) {
        if (!sample.takes_next()) {
            return;
        }
        Memory memory(stream);
        const Values x = Values::of(in.x.floats(), choice.type);
        const Values residual = Values::of(in.residual.floats(), choice.type);
        const Floats32 found = on_gpu(c, in, x, residual, memory);
        judge(c, in, x.floats(), residual.floats(), found, choice.type, score);
    });
}

}  // namespace resq::tests::gpu
