// What the operators work on, as the adapters hand it to the kernels.
#pragma once

#include <cstdint>

namespace resq {

// Type of the activations; parameters are float32 whatever it is.
enum class Float { kSingle, kHalf, kBFloat16 };

// An activation tensor to read or to write.
struct ConstFloats {
    const void* data;
    Float type;
};
struct Floats {
    void* data;
    Float type;
};

}  // namespace resq
