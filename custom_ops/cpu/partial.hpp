// Loads and stores of fewer than sixteen lanes, where no masked instruction does it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace resq::RESQ_ISA {

// The first `count` lanes, and zeros in the others.
template <typename T>
inline F load_first(const T* p, std::int64_t count) {
    if (count >= kLanes) {
        return load(p);
    }
    T lanes[kLanes] = {};
    __builtin_memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(T));
    return load(lanes);
}
template <typename T>
inline void store_first(T* p, F x, std::int64_t count) {
    if (count >= kLanes) {
        return store(p, x);
    }
    T lanes[kLanes];
    store(lanes, x);
    __builtin_memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(T));
}

}  // namespace resq::RESQ_ISA
