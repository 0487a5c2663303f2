// Exact sums of products of pairs, sixteen lanes at a time.
#pragma once

#include "isa.hpp"

namespace resq::RESQ_ISA {

struct Sums {
    PairSums parts[kLanes / kPairLanes];
};
inline Sums no_sixteen() {
    Sums sums;
    for (PairSums& part : sums.parts) {
        part = no_sums();
    }
    return sums;
}
// Adds the products of the pairs in each lane.
inline void add_lane_products(Sums& sums, I a, I b) {
    for (int i = 0; i < kLanes / kPairLanes; ++i) {
        sums.parts[i] = dot(sums.parts[i], part_of(a, i), part_of(b, i));
    }
}
// The same with a register that has one pair in all its lanes.
inline void add_products(Sums& sums, I a, P b) {
#pragma GCC unroll 4
    for (int i = 0; i < kLanes / kPairLanes; ++i) {
        sums.parts[i] = held(dot(sums.parts[i], part_of(a, i), b));
    }
}
inline I total(const Sums& sums) {
    P parts[kLanes / kPairLanes];
    for (int i = 0; i < kLanes / kPairLanes; ++i) {
        parts[i] = total(sums.parts[i]);
    }
    return join(parts);
}

}  // namespace resq::RESQ_ISA
