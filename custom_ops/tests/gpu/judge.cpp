// Tolerances applied.
#include "judge.hpp"

#include <cmath>
#include <cstdio>

#include "values.hpp"

namespace resq::tests::gpu {
namespace {

// Mismatches of an operator and type that are described.
constexpr std::int64_t kTold = 5;

}  // namespace

const char* name_of(Float type) {
    return type == Float::kHalf ? "float16" : type == Float::kBFloat16 ? "bfloat16" : "float32";
}

bool is_near(float found, float wanted, double tolerance, Float type) {
    if (std::isnan(wanted)) {
        return std::isnan(found);
    }
    if (std::isinf(wanted) || !std::isfinite(tolerance)) {
        return found == rounded(wanted, type);
    }
    const double middle = static_cast<double>(wanted);
    // Rounding keeps the order of numbers.
    return rounded(static_cast<float>(middle - tolerance), type) <= found &&
           found <= rounded(static_cast<float>(middle + tolerance), type);
}

void Score::expect(bool holds, const std::string& what) {
    ++comparisons;
    if (holds) {
        return;
    }
    if (++mismatches <= kTold) {
        std::fprintf(stderr, "%s: mismatch: %s\n", name.c_str(), what.c_str());
    }
    if (stops) {
        throw Stopped{};
    }
}

}  // namespace resq::tests::gpu
