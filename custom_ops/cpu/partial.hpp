// What a vectors_*.hpp may leave out: loads and stores of fewer than sixteen lanes, and unpacking,
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

#ifndef RESQ_HAS_UNPACK
// Thirty-two signed 4-bit values in sixteen bytes, as bytes.
inline void unpack_signed(const std::uint8_t* packed, std::int8_t* out) {
    for (int i = 0; i < kLanes; ++i) {
        out[2 * i] = static_cast<std::int8_t>(((packed[i] & 15) ^ 8) - 8);
        out[2 * i + 1] = static_cast<std::int8_t>(((packed[i] >> 4) ^ 8) - 8);
    }
}
#endif

}  // namespace resq::RESQ_ISA
