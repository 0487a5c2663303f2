// What a vectors_*.hpp may leave out: loads and stores of fewer than sixteen lanes, and widening,
// in plain C++. Where there is an instruction, an overload or a macro there replaces the one here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.hpp"

namespace resq::RESQ_ISA {

// The first `count` lanes; the others are zero.
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

#ifndef RESQ_HAS_WIDEN
// The four signed bytes of every lane as words: the first two in words[0], the others in words[1].
inline void widen_bytes(I x, I words[2]) {
    std::int8_t bytes[4 * kLanes];
    std::int16_t wide[2][2 * kLanes];
    store(reinterpret_cast<std::int32_t*>(bytes), x);
    for (int i = 0; i < 4 * kLanes; ++i) {
        wide[i % 4 / 2][i / 4 * 2 + i % 2] = bytes[i];
    }
    for (int i = 0; i < 2; ++i) {
        words[i] = load(reinterpret_cast<const std::int32_t*>(wide[i]));
    }
}
#endif

}  // namespace resq::RESQ_ISA
