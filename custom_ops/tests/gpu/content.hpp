// Content of GPU memory for measurements: some random numbers, repeated as often as it takes.
#pragma once

#include "resq/attention.hpp"
#include "runtime.hpp"

namespace resq::tests::gpu {

class Content {
  public:
    explicit Content(Stream& stream);

    std::uint8_t* bytes(Memory& memory, std::size_t count);
    void* halves(Memory& memory, std::size_t count);
    // Records with ordinary scales.
    std::uint8_t* records(Memory& memory, const Record& layout, std::size_t count);
    float* floats(Memory& memory, std::size_t count, float value) const;

  private:
    void repeat(void* to, std::size_t bytes, const void* from, std::size_t period) const;

    Stream& stream_;
    Memory memory_;
    std::uint8_t* bytes_;
    std::uint16_t* halves_;
};

}  // namespace resq::tests::gpu
