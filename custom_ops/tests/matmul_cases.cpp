// MixedPrecisionMatMul: quantised rows, products by panels and by streams.
#include <algorithm>
#include <cmath>
#include <limits>

#include "contest.hpp"

namespace resq::tests {
namespace {

// Columns of one group of the parts, and the low part's bits.
struct Columns {
    std::int64_t groups, low, high;
    int low_bits = 4;
};

// Random; the largest possible sums, of either sign; or special numbers, such as NaN.
enum class Content { kRandom, kLowestWeights, kHighestWeights, kSpecial };

struct Case {
    Columns columns;
    std::int64_t rows, outputs;
    Content content = Content::kRandom;
    Float type = Float::kSingle;
    bool normalise = false, bias = false, residual = false;
    float low_clip = 1.0f;
    std::size_t misaligned = 0;  // offset of the weights from an aligned address, in bytes

    std::string name() const {
        const auto text = [](std::int64_t number) { return std::to_string(number); };
        return "matmul rows=" + text(rows) + " outputs=" + text(outputs) +
               " groups=" + text(columns.groups) + " low=" + text(columns.low) + " (" +
               text(columns.low_bits) + " bits) high=" + text(columns.high) +
               " content=" + text(static_cast<int>(content)) +
               (type == Float::kHalf ? " float16" : "") + (normalise ? " norm" : "") +
               (low_clip < 1.0f ? " clip" : "") + (bias ? " bias" : "") +
               (residual ? " residual" : "");
    }
};

struct Weights {
    std::vector<std::uint8_t> bytes;
    std::vector<float> scales;
};

// Everything a case needs, in memory of the exact size.
struct Inputs {
    MatMul matmul;
    Weights weights[2];
    std::vector<float> bias;
    Values x, residual;

    Inputs(const Case& c, Random& random);

  private:
    void fill_part(const Case& c, int p, Random& random);
    void fill_x(const Case& c, Random& random);
};

Inputs::Inputs(const Case& c, Random& random) {
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

void Inputs::fill_part(const Case& c, int p, Random& random) {
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

// A special row has one of these among ordinary numbers.
const float kSpecial[] = {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), 3e38f, -3e38f};

void Inputs::fill_x(const Case& c, Random& random) {
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

// How an instruction set stores an 8-bit activation, determined with a row of 64 ones.
struct Storage {
    std::int64_t element_bytes;
    std::int32_t offset;

    explicit Storage(const Kernels& kernels) {
        MatMul m;
        m.parts[1].bits = 8;
        m.parts[1].width = 64;
        const std::size_t bytes = kernels.row_bytes(m);
        element_bytes = static_cast<std::int64_t>((bytes - kSlack) / 64);
        const std::vector<float> x(64, 1.0f);
        std::vector<std::uint8_t> integers(bytes);
        float scale;
        std::int32_t zero;
        kernels.quantise_rows(m, {x.data(), Float::kSingle},
                              {integers.data(), &scale, &zero, bytes}, 0, 1);
        offset = -zero;
    }
};

// Quantised rows, in memory of the exact size.
struct Rows {
    const MatMul& matmul;
    std::int64_t rows;
    std::vector<std::uint8_t> integers;
    std::vector<float> scales;
    std::vector<std::int32_t> zeros;
    Activations activations;

    Rows(const Kernels& kernels, const MatMul& m, std::int64_t count)
        : matmul(m),
          rows(count),
          integers(static_cast<std::size_t>(rows) * kernels.row_bytes(m)),
          scales(static_cast<std::size_t>(rows * m.segments())),
          zeros(scales.size()),
          activations{integers.data(), scales.data(), zeros.data(), kernels.row_bytes(m)} {}

    // Integers and zero points as the scalar kernels store them: segment by segment, without
    // padding.
    Bits plain(const Storage& storage) const {
        Bits bits;
        std::size_t segment = 0;
        for (std::int64_t row = 0; row < rows; ++row) {
            const std::uint8_t* p =
                integers.data() + static_cast<std::size_t>(row) * activations.row_bytes;
            for (const Part& part : matmul.parts) {
                const std::int64_t step = part.bits == 4 ? 1 : storage.element_bytes;
                const std::int32_t offset = part.bits == 4 ? 0 : storage.offset;
                for (std::int64_t g = 0; g < matmul.groups && part.width > 0; ++g) {
                    for (std::int64_t k = 0; k < part.width; ++k) {
                        const std::int64_t place = part.bits == 4 ? nibble_place(k) : k * step;
                        bits.push_back(static_cast<std::uint8_t>(p[place] + offset));
                    }
                    bits.push_back(static_cast<std::uint32_t>(zeros[segment++] + offset));
                    p += (part.width + kSegmentStep - 1) / kSegmentStep * kSegmentStep * step;
                }
            }
        }
        return bits;
    }
};

// One case with one instruction set.
struct Run {
    const Case& c;
    const Inputs& in;
    Contestant& contestant;
    const std::string& name;
    const Kernels& kernels;
    const MatMul& m;

    Run(const Case& of, const Inputs& inputs, Contestant& who, const std::string& called)
        : c(of), in(inputs), contestant(who), name(called), kernels(who.kernels), m(in.matmul) {}

    Values empty() const { return Values(c.type, c.rows * c.outputs); }
    MatMulOutput output(Values& y) const {
        return {y.write(), c.residual ? in.residual.read() : ConstFloats{nullptr, c.type}};
    }

    // Multiplies rows in pieces of this size.
    Values by_panels(const Activations& x, std::int64_t piece) const {
        Values y = empty();
        const Scratch scratch(kernels.panel_bytes(m));
        for (std::int64_t panel = 0; panel * kernels.panel_outputs < c.outputs; ++panel) {
            for (std::int64_t row = 0; row < c.rows; row += piece) {
                kernels.multiply_panel(m, x, output(y), panel, row, std::min(row + piece, c.rows),
                                       scratch);
            }
        }
        return y;
    }

    // Multiplies at most `at_once` rows at a time, and blocks of outputs in pieces of `piece`.
    Values by_streams(const Activations& x, std::int64_t at_once, std::int64_t piece) const {
        Values y = empty();
        const std::int64_t blocks = (c.outputs + 15) / 16;
        const Scratch scratch(kernels.stream_scratch_bytes(m));
        for (std::int64_t row = 0; row < c.rows; row += at_once) {
            const std::int64_t rows = std::min(at_once, c.rows - row);
            const Scratch prepared(kernels.prepared_row_bytes(m) * static_cast<std::size_t>(rows));
            kernels.prepare_stream(m, x, row, rows, prepared);
            for (std::int64_t block = 0; block < blocks; block += piece) {
                kernels.multiply_stream(m, x, output(y), prepared, row, rows, block,
                                        std::min(block + piece, blocks), scratch);
            }
        }
        return y;
    }

    void expect_same(const char* what, const Bits& found, const Bits& wanted) const {
        contestant.expect_same(name + ": " + what, found, wanted);
    }

    Results operator()() const {
        const Storage storage(kernels);
        Rows whole(kernels, m, c.rows), cut(kernels, m, c.rows);
        kernels.quantise_rows(m, in.x.read(), whole.activations, 0, c.rows);
        for (std::int64_t row = 0; row < c.rows; ++row) {
            kernels.quantise_rows(m, in.x.read(), cut.activations, row, row + 1);
        }
        const Bits plain = whole.plain(storage), scales = bits_of(whole.scales);
        expect_same("rows quantised one by one", cut.plain(storage), plain);
        expect_same("scales, one by one", bits_of(cut.scales), scales);

        const Activations& x = whole.activations;
        const Bits y = bits_of(by_panels(x, c.rows));
        expect_same("panels, rows in pieces", bits_of(by_panels(x, 1 + c.rows / 3)), y);
        if (kernels.can_stream(m)) {
            const std::int64_t few = kernels.few_rows;
            expect_same("streams", bits_of(by_streams(x, few, c.outputs)), y);
            expect_same("streams, one row and block each", bits_of(by_streams(x, 1, 1)), y);
            expect_same("streams, in pieces",
                        bits_of(by_streams(x, std::max(few - 1, INT64_C(1)), 3)), y);
        }
        return {{"integers", plain}, {"scales", scales}, {"y", y}};
    }
};

void hold(Contest& contest, const Case& c, Random& random) {
    const Inputs inputs(c, random);
    contest.hold(c.name(), [&](Contestant& contestant, const std::string& name) {
        return Run(c, inputs, contestant, name)();
    });
}

// AVX2 widens its 16-bit sums every 544 columns of a panel and every 2,304 of a stream.
const Columns kColumns[] = {
    {1, 1, 0},      {1, 2, 0},      {1, 7, 0},    {1, 0, 1},     {1, 0, 5},      {1, 2, 3},
    {1, 16, 16},    {1, 33, 0},     {1, 64, 8},   {1, 0, 600},   {1, 504, 72},   {1, 545, 3},
    {3, 20, 4},     {3, 5, 3},      {9, 7, 1},    {9, 56, 8},    {1, 64, 64, 8}, {1, 33, 7, 8},
    {3, 20, 12, 8}, {1, 1344, 192}, {1, 2300, 0}, {1, 2402, 30},
};

Case any_options(const Columns& columns, std::int64_t rows, std::int64_t outputs, Random& random) {
    Case c{columns, rows, outputs};
    c.type = random.one_in(3) ? Float::kHalf : Float::kSingle;
    c.normalise = columns.groups == 1 && random.one_in(2);
    c.bias = random.one_in(2);
    c.residual = random.one_in(2);
    c.low_clip = random.one_in(3) ? 0.85f : 1.0f;
    c.misaligned = random.one_in(4) ? 1 : 0;
    return c;
}

}  // namespace

void compare_matmuls(Contest& contest, bool quick) {
    Random random(1);
    for (const Columns& columns : kColumns) {
        for (const std::int64_t rows :
             {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 40}) {
            for (const std::int64_t outputs : {1, 5, 15, 16, 17, 63, 64, 65, 100}) {
                if (quick && !random.one_in(16)) {
                    continue;
                }
                hold(contest, any_options(columns, rows, outputs, random), random);
            }
        }
        for (const Content content :
             {Content::kLowestWeights, Content::kHighestWeights, Content::kSpecial}) {
            Case c = any_options(columns, 9, 33, random);
            c.type = Float::kSingle;
            c.content = content;
            hold(contest, c, random);
        }
    }
    Random wide(2);
    for (const Columns& columns : {Columns{1, 4700, 0}, Columns{1, 0, 9000}}) {
        for (const Content content :
             {Content::kRandom, Content::kLowestWeights, Content::kHighestWeights}) {
            Case c{columns, 5, 17};
            c.content = content;
            hold(contest, c, wide);
        }
    }
}

}  // namespace resq::tests
