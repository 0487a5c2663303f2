// Activations to integers: per row and segment, asymmetric (matmul.hpp defines segments).
#pragma once

#include <cmath>
#include <cstring>

#include "isa.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// The smallest normal float32 replaces the scale 0 of a segment of zeros.
constexpr float kSmallestScale = 0x1p-126f;

// The largest integer with this many bits.
inline float top_of(int bits) { return bits == 4 ? 15.0f : 255.0f; }

// s = (max - min) / top, with min <= 0 <= max.
inline float scale_of(float smallest, float largest, float top) {
    const float scale = (largest - smallest) / top;
    return scale > kSmallestScale ? scale : kSmallestScale;
}

struct Quantiser {
    F scales, zeros, tops;
    std::int32_t zero_point;  // z, clipped as an integer is

    // z = round(-min / s)
    Quantiser(float smallest, float scale, float top)
        : scales(broadcast(scale)), tops(broadcast(top)) {
        const float z = std::nearbyint(-smallest / scale);
        zeros = broadcast(z);
        zero_point = static_cast<std::int32_t>(z < top ? z : top);
    }
    // round(x / s) + z, clipped: sixteen integers.
    I operator()(F x) const { return to_int(min(max(round(x / scales) + zeros, zero()), tops)); }
};

struct Range {
    float smallest, largest;
};

// Smallest and largest of x (width), extended to include 0.
template <typename T>
inline Range range_of(const T* x, std::int64_t width) {
    F smallest = zero(), largest = zero();
    for (std::int64_t k = 0; k < width; k += kLanes) {
        const F part = load_first(x + k, width - k);
        smallest = min(part, smallest);
        largest = max(part, largest);
    }
    return {least(smallest), greatest(largest)};
}

inline std::int64_t padded_width(const Part& part) {
    return (part.width + kSegmentStep - 1) / kSegmentStep * kSegmentStep;
}

// Bytes of an activation's integer, and of a weight in a panel.
inline std::int64_t element_bytes(const Part& part) { return part.bits == 4 ? 1 : kByteElement; }

inline std::int64_t segment_bytes(const Part& part) {
    return padded_width(part) * element_bytes(part);
}

inline std::size_t row_bytes(const MatMul& m) {
    std::int64_t bytes = kSlack;  // a load of the last segment may reach beyond it
    for (const Part& part : m.parts) {
        bytes += m.groups * segment_bytes(part);
    }
    return static_cast<std::size_t>((bytes + 63) / 64 * 64);
}

template <typename T>
inline void quantise_segment(const T* x, const Part& part, std::uint8_t* out, float* scale,
                             std::int32_t* zero_point) {
    const Range range = range_of(x, part.width);
    const float top = top_of(part.bits), smallest = range.smallest * part.clip;
    *scale = scale_of(smallest, range.largest * part.clip, top);
    const Quantiser quantiser(smallest, *scale, top);
    const int offset = part.bits == 4 ? 0 : kByteOffset;
    for (std::int64_t k = 0; k < part.width; k += kLanes) {
        const I integers = quantiser(load_first(x + k, part.width - k)) - broadcast(offset);
        if (part.bits == 4) {
            store_nibble_places(out + k, integers);
        } else if (element_bytes(part) == 1) {
            store_bytes(out + k, integers);
        } else {
            store_words(reinterpret_cast<std::uint16_t*>(out) + k, integers);
        }
    }
    *zero_point = quantiser.zero_point - offset;
}

// 1 / sqrt(mean(x²) + epsilon). A norm changes the scales, not the integers.
template <typename T>
inline float inverse_rms(const T* x, std::int64_t width, float epsilon) {
    F squares = zero();
    for (std::int64_t k = 0; k < width; k += kLanes) {
        const F part = load_first(x + k, width - k);
        squares = fma(part, part, squares);
    }
    return 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon);
}

template <typename T>
inline void quantise_row(const MatMul& m, const T* x, std::uint8_t* out, float* scales,
                         std::int32_t* zeros) {
    std::int64_t segment = 0, before = 0;
    for (const Part& part : m.parts) {
        if (part.width == 0) {
            continue;
        }
        for (std::int64_t g = 0; g < m.groups; ++g, ++segment, out += segment_bytes(part)) {
            const T* columns = x + g * (m.parts[0].width + m.parts[1].width) + before;
            quantise_segment(columns, part, out, scales + segment, zeros + segment);
        }
        before += part.width;
    }
    if (m.normalise) {
        const float factor = inverse_rms(x, m.columns(), m.epsilon);
        for (segment = 0; segment < m.segments(); ++segment) {
            scales[segment] *= factor;
        }
    }
}

template <typename T>
inline void quantise_range(const MatMul& m, const T* x, const Activations& out, std::int64_t first,
                           std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
        quantise_row(m, x + row * m.columns(),
                     out.integers + static_cast<std::size_t>(row) * out.row_bytes,
                     out.scales + row * m.segments(), out.zeros + row * m.segments());
    }
}

inline void quantise_rows(const MatMul& m, ConstFloats x, const Activations& out,
                          std::int64_t first, std::int64_t last) {
    if (x.type == Float::kSingle) {
        quantise_range(m, static_cast<const float*>(x.data), out, first, last);
    } else {
        quantise_range(m, static_cast<const std::uint16_t*>(x.data), out, first, last);
    }
}

}  // namespace resq::RESQ_ISA
