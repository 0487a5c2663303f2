// The cases of GatedHadamard, and their inputs.
#pragma once

#include <functional>

#include "resq/hadamard.hpp"
#include "values.hpp"

namespace resq::tests {

struct HadamardCase {
    std::string name;
    GatedHadamard hadamard;
    std::int64_t rows;
    Values gate_up;
};

// Visits all cases; `quick` skips most of them.
void each_hadamard(bool quick, const std::function<void(const HadamardCase&)>& visit);

}  // namespace resq::tests
