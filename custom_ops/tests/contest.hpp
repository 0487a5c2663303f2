// What all cases share: buffers of exact size, random numbers that are the same everywhere, and the
// record of comparisons.
#pragma once

#include <cstdint>
#include <cstring>
#include <future>
#include <initializer_list>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "resq/kernels.hpp"

namespace resq::tests {

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

// Activations in either type. A vector's memory ends with its content, so a sanitizer sees a read
// beyond it.
struct Values {
    Float type = Float::kSingle;
    std::vector<float> singles;
    std::vector<std::uint16_t> halves;

    Values() = default;
    // Filled with a number that is no case's result.
    Values(Float of, std::int64_t count);
    static Values random(Float type, std::int64_t count, Random& random);

    ConstFloats read() const;
    Floats write();
};

std::vector<float> random_floats(std::int64_t count, Random& random);

// Results as bits, with the same bits for all NaNs, as CPUs differ in the NaN they return.
constexpr std::uint32_t kNan = 0x7FC00000u, kNanHalf = 0x7E00u;
using Bits = std::vector<std::uint32_t>;
Bits bits_of(const Values& values);
Bits bits_of(const std::vector<float>& values);
Bits bits_of(const std::vector<std::uint8_t>& values);

// The results of a case: names and bits.
using Results = std::vector<std::pair<std::string, Bits>>;

// An instruction set and its score.
struct Contestant {
    const Kernels& kernels;
    std::int64_t comparisons = 0, mismatches = 0;

    void expect_same(const std::string& what, const Bits& found, const Bits& wanted);
};

// Runs cases with the scalar kernels and with all others, each in its own thread, and compares.
class Contest {
  public:
    Contestant scalar;
    std::vector<Contestant> others;
    std::uint64_t checksum = 0xCBF29CE484222325u;  // FNV-1a, of the scalar results

    // `run(contestant, name)` returns the results of a case. It also compares different ways to
    // compute the same result.
    template <typename Run>
    void hold(const std::string& name, const Run& run) {
        std::vector<std::future<Results>> found;
        for (Contestant& contestant : others) {
            found.push_back(std::async(
                std::launch::async, [&run, &name, &contestant] { return run(contestant, name); }));
        }
        const Results wanted = run(scalar, name);
        add_to_checksum(wanted);
        for (std::size_t i = 0; i < others.size(); ++i) {
            compare(others[i], name, found[i].get(), wanted);
        }
    }

  private:
    void add_to_checksum(const Results& results);
    static void compare(Contestant& contestant, const std::string& name, const Results& found,
                        const Results& wanted);
};

// The cases; `quick` skips most of them.
void compare_matmuls(Contest& contest, bool quick);
void compare_hadamards(Contest& contest, bool quick);
void compare_attentions(Contest& contest, bool quick);

}  // namespace resq::tests
