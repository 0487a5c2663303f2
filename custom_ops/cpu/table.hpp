// The kernels of the instruction set RESQ_ISA as a table. kernels_*.cpp includes it last.
#pragma once

#include "attend.hpp"
#include "hadamard.hpp"
#include "isa.hpp"
#include "panels.hpp"
#include "quantise.hpp"
#include "resq/kernels.hpp"
#include "streams.hpp"
#include "tokens.hpp"

namespace resq::RESQ_ISA {

constexpr Kernels table(const char* name) {
    Kernels t{};
    t.name = name;
    t.row_bytes = row_bytes;
    t.quantise_rows = quantise_rows;
    t.panel_outputs = kPanel;
    t.panel_bytes = panel_bytes;
    t.multiply_panel = multiply_panel;
    t.few_rows = kStreamRows;
    t.can_stream = can_stream;
    t.prepared_row_bytes = prepared_row_bytes;
    t.prepare_stream = prepare_stream;
    t.stream_scratch_bytes = stream_scratch_bytes;
    t.multiply_stream = multiply_stream;
    t.hadamard_scratch_bytes = hadamard_scratch_bytes;
    t.gated_hadamard = gated_hadamard;
    t.prepare_scratch_bytes = prepare_scratch_bytes;
    t.prepare_tokens = prepare_tokens;
    t.attend_scratch_bytes = attend_scratch_bytes;
    t.attend = attend;
    t.combine = combine;
    return t;
}

}  // namespace resq::RESQ_ISA
