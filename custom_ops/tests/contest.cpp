// Values, their bits, and comparisons.
#include "contest.hpp"

#include <cmath>
#include <cstdio>

namespace resq::tests {
namespace {

// 12345 in either type: no case has that result.
constexpr float kUnwritten = 12345.0f;
constexpr std::uint16_t kUnwrittenHalf = 0x7207;

// Mismatches per instruction set that are reported in detail.
constexpr std::int64_t kTold = 10;

// Between 2^-6 and 2^2, either sign.
std::uint16_t random_half(Random& random) {
    const std::uint64_t bits = random.bits();
    const std::uint64_t exponent = 9 + (bits >> 20) % 8;
    return static_cast<std::uint16_t>((bits & 0x83FFu) | exponent << 10);
}

}  // namespace

Values::Values(Float of, std::int64_t count) : type(of) {
    const auto size = static_cast<std::size_t>(count);
    if (type == Float::kSingle) {
        singles.assign(size, kUnwritten);
    } else {
        halves.assign(size, kUnwrittenHalf);
    }
}

Values Values::random(Float type, std::int64_t count, Random& random) {
    Values values(type, count);
    for (float& x : values.singles) {
        x = random.real() * (random.one_in(20) ? 8.0f : 1.0f);
    }
    for (std::uint16_t& x : values.halves) {
        x = random_half(random);
    }
    return values;
}

ConstFloats Values::read() const {
    if (type == Float::kSingle) {
        return {singles.data(), type};
    }
    return {halves.data(), type};
}

Floats Values::write() {
    if (type == Float::kSingle) {
        return {singles.data(), type};
    }
    return {halves.data(), type};
}

std::vector<float> random_floats(std::int64_t count, Random& random) {
    return Values::random(Float::kSingle, count, random).singles;
}

Bits bits_of(const std::vector<float>& values) {
    Bits bits(values.size());
    for (std::size_t i = 0; i < bits.size(); ++i) {
        std::memcpy(&bits[i], &values[i], 4);
        bits[i] = std::isnan(values[i]) ? kNan : bits[i];
    }
    return bits;
}

Bits bits_of(const Values& values) {
    if (values.type == Float::kSingle) {
        return bits_of(values.singles);
    }
    Bits bits(values.halves.begin(), values.halves.end());
    for (std::uint32_t& one : bits) {
        one = (one & 0x7FFFu) > 0x7C00u ? kNanHalf : one;
    }
    return bits;
}

Bits bits_of(const std::vector<std::uint8_t>& values) { return {values.begin(), values.end()}; }

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
