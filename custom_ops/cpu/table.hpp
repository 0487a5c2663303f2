// The kernels of the instruction set RESQ_ISA as a table. Included last by kernels_*.cpp.
#pragma once

#include "attend.hpp"
#include "hadamard.hpp"
#include "panels.hpp"
#include "resq/kernels.hpp"
#include "streams.hpp"
#include "tokens.hpp"

namespace resq::RESQ_ISA {

constexpr Kernels table(const char* name) {
    return {
        name,
        row_bytes,
        quantise_rows,
        kPanel,
        panel_bytes,
        multiply_panel,
        kFewRows,
        can_stream,
        stream_bytes,
        prepare_stream,
        stream_scratch_bytes,
        multiply_stream,
        hadamard_scratch_bytes,
        gated_hadamard,
        prepare_scratch_bytes,
        prepare_tokens,
        attend_scratch_bytes,
        attend,
        combine,
    };
}

}  // namespace resq::RESQ_ISA
