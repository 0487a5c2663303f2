// The cases of each operator, on the GPU and with the scalar kernels.
#pragma once

#include "judge.hpp"
#include "resq/cuda.hpp"
#include "runtime.hpp"
#include "values.hpp"

namespace resq::tests::gpu {

// Which cases run, in which type.
struct Choice {
    Float type = Float::kSingle;
    Selection cases;
    std::int64_t every = 1;  // of these, one in so many
};

void compare_matmuls(const Choice& choice, Score& score);
void compare_hadamards(const Choice& choice, Score& score);
void compare_attentions(const Choice& choice, Score& score);

// Visits one in `every` of the cases that pass by.
class Sample {
  public:
    explicit Sample(std::int64_t every) : every_(every) {}
    bool takes_next() { return seen_++ % every_ == 0; }

  private:
    std::int64_t every_, seen_ = 0;
};

// Activations in GPU memory.
class GpuValues {
  public:
    // A copy; of no values, none.
    GpuValues(Memory& memory, const Values& values);
    // Memory for a result.
    GpuValues(Memory& memory, Float type, std::int64_t count);

    ConstFloats read() const { return {data_, type_}; }
    Floats write() const { return {data_, type_}; }
    std::vector<float> download() const;

  private:
    Memory& memory_;
    Float type_;
    std::size_t count_;
    void* data_ = nullptr;
};

}  // namespace resq::tests::gpu
