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

// Visits the cases of a selection.
void each_hadamard(const Selection& selection,
                   const std::function<void(const HadamardCase&)>& visit);

}  // namespace resq::tests
