// Memory that kernels work in: each thread keeps its own, which only grows, so that a call
// allocates nothing once a call of its size has been seen.
#pragma once

#include <cstddef>

namespace resq::ort {

// What a piece of scratch memory is for: pieces of one thread that are in use together differ.
enum class ScratchUse { kIntegers, kScales, kZeros, kPrepared, kWork, kQueries, kPartial, kCount };

// At least `bytes` of this thread's memory for a use, aligned to a cache line. The content is
// anything; it stays until the thread asks for the same use again.
void* scratch(ScratchUse use, std::size_t bytes);

}  // namespace resq::ort
