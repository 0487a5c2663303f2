// Comparisons, and the checksum.
#include "contest.hpp"

#include <cstdio>

namespace resq::tests {
namespace {

// Mismatches per instruction set that are reported in detail.
constexpr std::int64_t kTold = 10;

}  // namespace

void Contestant::expect_same(const std::string& what, const Bits& found, const Bits& wanted) {
    ++comparisons;
    if (found == wanted) {
        return;
    }
    if (++mismatches > kTold) {
        return;
    }
    std::size_t i = 0;
    while (i < found.size() && i < wanted.size() && found[i] == wanted[i]) {
        ++i;
    }
    if (i < found.size() && i < wanted.size()) {
        std::fprintf(stderr, "%s: %s: element %zu of %zu is 0x%08x, expected 0x%08x\n",
                     kernels.name, what.c_str(), i, wanted.size(), found[i], wanted[i]);
    } else {
        std::fprintf(stderr, "%s: %s: %zu elements, expected %zu\n", kernels.name, what.c_str(),
                     found.size(), wanted.size());
    }
}

void Contest::add_to_checksum(const Results& results) {
    for (const auto& [name, bits] : results) {
        for (const std::uint32_t one : bits) {
            checksum = (checksum ^ one) * 0x100000001B3u;
        }
    }
}

void Contest::compare(Contestant& contestant, const std::string& name, const Results& found,
                      const Results& wanted) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        contestant.expect_same(name + ": " + wanted[i].first, found.at(i).second, wanted[i].second);
    }
}

}  // namespace resq::tests
