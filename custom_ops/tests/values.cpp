// Values and their bits.
#include "values.hpp"

#include <cmath>

#define RESQ_ISA scalar
#include "cpu/vectors_scalar.hpp"

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

std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

float float_of(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

std::uint16_t encoded(float x, Float type) {
    if (type == Float::kHalf) {
        return scalar::float_to_half(x);
    }
    const std::uint32_t bits = bits_of(x);
    return std::isnan(x) ? 0x7FFF
                         : static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

float decoded(std::uint16_t bits, Float type) {
    return type == Float::kHalf ? scalar::half_to_float(bits) : float_of(std::uint32_t{bits} << 16);
}

}  // namespace

float rounded(float x, Float type) {
    return type == Float::kSingle ? x : decoded(encoded(x, type), type);
}

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

Values Values::of(const std::vector<float>& floats, Float type) {
    Values values(type, static_cast<std::int64_t>(floats.size()));
    for (std::size_t i = 0; i < values.singles.size(); ++i) {
        values.singles[i] = floats[i];
    }
    for (std::size_t i = 0; i < values.halves.size(); ++i) {
        values.halves[i] = encoded(floats[i], type);
    }
    return values;
}

std::vector<float> Values::floats() const {
    std::vector<float> floats = singles;
    for (const std::uint16_t bits : halves) {
        floats.push_back(decoded(bits, type));
    }
    return floats;
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
