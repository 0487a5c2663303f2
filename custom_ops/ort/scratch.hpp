// Scratch memory for kernels. Every thread keeps its own, which only grows: a call allocates
// nothing if one as large came before.
#pragma once

#include <cstddef>

namespace resq::ort {

// What a piece of scratch memory is for. Pieces that a thread needs at the same time have different
// uses.
enum class ScratchUse { kIntegers, kScales, kZeros, kPrepared, kWork, kQueries, kPartial, kCount };

// At least `bytes` of this thread's memory for a use, aligned to a cache line and uninitialised. It
// remains valid until the thread asks for the same use again.
void* scratch(ScratchUse use, std::size_t bytes);

}  // namespace resq::ort
