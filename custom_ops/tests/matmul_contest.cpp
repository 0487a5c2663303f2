// MixedPrecisionMatMul: quantised rows, products by panels and by streams.
#include <algorithm>
#include <cmath>

#include "contest.hpp"
#include "matmul_cases.hpp"

namespace resq::tests {
namespace {

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
    const MatMulCase& c;
    const MatMulInputs& in;
    Contestant& contestant;
    const std::string& name;
    const Kernels& kernels;
    const MatMul& m;

    Run(const MatMulCase& of, const MatMulInputs& inputs, Contestant& who,
        const std::string& called)
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

}  // namespace

void compare_matmuls(Contest& contest, bool quick) {
    each_matmul({quick}, [&contest](const MatMulCase& c, const MatMulInputs& inputs) {
        contest.hold(c.name(), [&](Contestant& contestant, const std::string& name) {
            return Run(c, inputs, contestant, name)();
        });
    });
}

}  // namespace resq::tests
