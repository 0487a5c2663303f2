// Numbers of rows as types, so that loops over rows are unrolled.
#pragma once

#include <cstdint>
#include <type_traits>

#include "isa.hpp"

namespace resq::RESQ_ISA {

// Calls use(count), with the count, 1 to kMost, as a type.
template <int kMost, typename Use>
inline void with_count(std::int64_t count, const Use& use) {
    if (count == kMost) {
        use(std::integral_constant<int, kMost>{});
    } else if constexpr (kMost > 1) {
        with_count<kMost - 1>(count, use);
    }
}

// Calls use(first, count) for `rows` rows in groups of about the same size, at most kMost.
template <int kMost, typename Use>
inline void each_group(std::int64_t rows, const Use& use) {
    const std::int64_t groups = (rows + kMost - 1) / kMost;
    for (std::int64_t g = 0, first = 0; g < groups; ++g) {
        const std::int64_t count = (rows - first) / (groups - g);
        with_count<kMost>(count, [&](auto size) { use(first, size); });
        first += count;
    }
}

}  // namespace resq::RESQ_ISA
