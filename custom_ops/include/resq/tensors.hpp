// Activation tensors, as the adapters hand them to the kernels.
#pragma once

#include <cstdint>

namespace resq {

// Type of the activations. Parameters are always float32.
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
