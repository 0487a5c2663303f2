// Steps of a decoder layer in float16, each with memory of its own: what is timed.
//
//   linear     rows outputs groups low high norm adds     quantises and multiplies
//   quantise   the same                                   quantises alone
//   multiply   the same                                   multiplies alone
//   attention  sequences tokens context heads kv_heads dim high    prepares and attends
//   prepare, attend   the same                            one of the two
//   gate       rows low_outer low_inner high_outer high_inner
#pragma once

#include <memory>

#include "content.hpp"
#include "runtime.hpp"
#include "shape.hpp"

namespace resq::tests::gpu {

class Step {
  public:
    virtual ~Step() = default;
    virtual void launch(cuda::Queue& queue) const = 0;
    // The result, which the next step reads.
    const void* y() const { return y_; }

  protected:
    void* y_ = nullptr;
};

// Makes a step.
//
// `x` is what it reads, or null for random numbers. With `like`, the same step of another layer, it
// has weights and a cache of its own, and shares the memory that only one layer uses at a time.
// Throws std::invalid_argument if the kind is unknown.
std::unique_ptr<Step> make_step(const Shape& shape, Memory& memory, Content& content,
                                const void* x = nullptr, const Step* like = nullptr);

// Bytes of weights or cache that a step reads.
std::size_t constant_bytes(const Shape& shape);

}  // namespace resq::tests::gpu
