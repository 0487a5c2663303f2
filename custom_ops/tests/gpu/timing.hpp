// Times steps of decoder layers, and whole layers as one CUDA graph.
#pragma once

#include <iosfwd>

namespace resq::tests::gpu {

// Reads lines of shapes (steps.hpp), and prints for each `us=MEDIAN`, or `error=REASON`, after a
// line that describes the device. The lines between `stack layers=N` and `end` are the steps of a
// layer, and have one time, of all layers. With `once`, each runs once and its time is 0: for tools
// that look at the launches.
//
// Throws std::invalid_argument if a line is not understood.
void time_shapes(std::istream& lines, bool once);

}  // namespace resq::tests::gpu
