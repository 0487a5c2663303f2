// Instruction sets that compute the same cases, and the record of comparisons.
#pragma once

#include <cstdint>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "resq/kernels.hpp"
#include "values.hpp"

namespace resq::tests {

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

// All cases of an operator; `quick` skips most of them.
void compare_matmuls(Contest& contest, bool quick);
void compare_hadamards(Contest& contest, bool quick);
void compare_attentions(Contest& contest, bool quick);

}  // namespace resq::tests
