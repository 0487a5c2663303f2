// What all cases share: random numbers that are the same everywhere, buffers of exact size, and
// bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <string>
#include <vector>

#include "resq/tensors.hpp"

namespace resq::tests {

// Which cases run: all, or a small part of them if `quick`. Another seed draws other options and
// numbers.
struct Selection {
    bool quick = false;
    std::uint64_t seed = 0;
};

// SplitMix64. The distributions of <random> differ between standard libraries.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {
        std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    std::int64_t below(std::int64_t limit) {
        return static_cast<std::int64_t>(bits() >> 11) % limit;
    }
    bool one_in(std::int64_t n) { return below(n) == 0; }
    // In [-1, 1), exact.
    float real() { return static_cast<float>(below(1 << 24) - (1 << 23)) * 0x1p-23f; }
    template <typename T>
    T pick(std::initializer_list<T> from) {
        return from.begin()[below(static_cast<std::int64_t>(from.size()))];
    }

  private:
    std::uint64_t state_;
};

// Scratch memory of the exact size, aligned like the adapters'. What a kernel reads before writing
// is NaN, or -1.
class Scratch {
  public:
    explicit Scratch(std::size_t bytes) : data_(::operator new(bytes, kAlignment)) {
        std::memset(data_, 0xFF, bytes);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { ::operator delete(data_, kAlignment); }

    operator void*() const { return data_; }

  private:
    static constexpr std::align_val_t kAlignment{64};
    void* data_;
};

// Activations in any type. A vector's memory ends with its content, so a sanitizer sees a read
// beyond it.
struct Values {
    Float type = Float::kSingle;
    std::vector<float> singles;
    std::vector<std::uint16_t> halves;

    Values() = default;
    // Filled with a number that is no case's result.
    Values(Float of, std::int64_t count);
    static Values random(Float type, std::int64_t count, Random& random);

    // Rounded to a type.
    static Values of(const std::vector<float>& floats, Float type);
    std::vector<float> floats() const;

    ConstFloats read() const;
    Floats write();
};

// The nearest number of a type, ties to even.
float rounded(float x, Float type);

std::vector<float> random_floats(std::int64_t count, Random& random);

// Results as bits, with the same bits for all NaNs, as CPUs differ in the NaN they return.
constexpr std::uint32_t kNan = 0x7FC00000u, kNanHalf = 0x7E00u;
using Bits = std::vector<std::uint32_t>;
Bits bits_of(const Values& values);
Bits bits_of(const std::vector<float>& values);
Bits bits_of(const std::vector<std::uint8_t>& values);

}  // namespace resq::tests
