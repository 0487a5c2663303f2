// GatedHadamard: all rows at once, and in pieces.
#include <algorithm>

#include "contest.hpp"
#include "hadamard_cases.hpp"

namespace resq::tests {
namespace {

Values run(const HadamardCase& c, const Kernels& kernels, std::int64_t piece) {
    Values y(c.gate_up.type, c.rows * c.hadamard.width);
    const Scratch scratch(kernels.hadamard_scratch_bytes(c.hadamard));
    for (std::int64_t row = 0; row < c.rows; row += piece) {
        kernels.gated_hadamard(c.hadamard, c.gate_up.read(), y.write(), row,
                               std::min(row + piece, c.rows), scratch);
    }
    return y;
}

}  // namespace

void compare_hadamards(Contest& contest, bool quick) {
    each_hadamard({quick}, [&contest](const HadamardCase& c) {
        contest.hold(c.name, [&c](Contestant& contestant, const std::string& name) {
            const Bits y = bits_of(run(c, contestant.kernels, c.rows));
            contestant.expect_same(name + ": row by row", bits_of(run(c, contestant.kernels, 1)),
                                   y);
            contestant.expect_same(name + ": in pieces",
                                   bits_of(run(c, contestant.kernels, 1 + c.rows / 2)), y);
            return Results{{"y", y}};
        });
    });
}

}  // namespace resq::tests
