// The number of lanes of a vector (F, I), the same for every instruction set.
#pragma once

namespace resq {

constexpr int kLanes = 16;

}  // namespace resq
