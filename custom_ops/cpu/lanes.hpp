// How many numbers a vector of the kernels holds, whatever the instruction set.
#pragma once

namespace resq {

constexpr int kLanes = 16;

}  // namespace resq
