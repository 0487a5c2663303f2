// GatedHadamard: in shared memory, and in scratch memory where that is too small.
#include <cmath>

#include "compare.hpp"
#include "hadamard_cases.hpp"
#include "scalar.hpp"

namespace resq::tests::gpu {
namespace {

Floats32 on_gpu(const HadamardCase& c, const Values& gate_up, Memory& memory) {
    GatedHadamard h = c.hadamard;
    for (HadamardPart& part : h.parts) {
        if (part.width() > 0) {
            const auto upload = [&memory](const float* factor, std::int64_t order) {
                return memory.upload(std::vector<float>(factor, factor + order * order));
            };
            part.outer = upload(part.outer, part.outer_order);
            part.inner = upload(part.inner, part.inner_order);
        }
    }
    const char* error = nullptr;
    const std::size_t scratch =
        cuda::hadamard_scratch_bytes(h, c.rows, cuda::this_gpu(&error)) / sizeof(float);
    float* work = scratch > 0 ? memory.make<float>(scratch) : nullptr;
    const GpuValues from(memory, gate_up), y(memory, gate_up.type, c.rows * h.width);
    memory.stream().launch([&](cuda::Queue& queue) {
        cuda::gated_hadamard(h, from.read(), y.write(), c.rows, work, queue);
    });
    return y.download();
}

}  // namespace

void compare_hadamards(const Choice& choice, Score& score) {
    Stream stream;
    Sample sample(choice.every);
    each_hadamard(choice.cases, [&](const HadamardCase& c) {
        if (!sample.takes_next()) {
            return;
        }
        Memory memory(stream);
        const Values gate_up = Values::of(c.gate_up.floats(), choice.type);
        const Floats32 found = on_gpu(c, gate_up, memory);
        const Floats32 wanted = scalar_hadamard(c.hadamard, gate_up.floats(), c.rows);
        const auto width = static_cast<std::size_t>(c.hadamard.width);
        std::vector<double> lengths(static_cast<std::size_t>(c.rows));
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            double& length = lengths[i / width];
            length = std::hypot(length, static_cast<double>(wanted[i]));
        }
        score.expect_all(static_cast<std::int64_t>(wanted.size()), c.name, [&](std::int64_t i) {
            const auto at = static_cast<std::size_t>(i);
            return is_near(found[at], wanted[at], kHadamard * lengths[at / width], choice.type);
        });
    });
}

}  // namespace resq::tests::gpu
