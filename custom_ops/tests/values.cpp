// Values and their bits.
#include "values.hpp"

#include <cmath>

namespace resq::tests {
namespace {

// 12345 in either type: no case has that result.
constexpr float kUnwritten = 12345.0f;
constexpr std::uint16_t kUnwrittenHalf = 0x7207;

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

}  // namespace resq::tests
