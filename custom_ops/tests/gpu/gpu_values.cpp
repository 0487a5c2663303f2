// Activations to GPU memory and back.
#include "compare.hpp"

namespace resq::tests::gpu {

GpuValues::GpuValues(Memory& memory, const Values& values)
    : memory_(memory), type_(values.type), count_(values.singles.size() + values.halves.size()) {
    if (count_ > 0 && type_ == Float::kSingle) {
        data_ = memory.upload(values.singles);
    } else if (count_ > 0) {
        data_ = memory.upload(values.halves);
    }
}

GpuValues::GpuValues(Memory& memory, Float type, std::int64_t count)
    : memory_(memory), type_(type), count_(static_cast<std::size_t>(count)) {
    data_ = type == Float::kSingle ? static_cast<void*>(memory.make<float>(count_))
                                   : memory.make<std::uint16_t>(count_);
}

std::vector<float> GpuValues::download() const {
    if (type_ == Float::kSingle) {
        return memory_.download(static_cast<const float*>(data_), count_);
    }
    Values values(type_, 0);
    values.halves = memory_.download(static_cast<const std::uint16_t*>(data_), count_);
    return values.floats();
}

}  // namespace resq::tests::gpu
