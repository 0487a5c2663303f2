// Activations to integers, and the norm: a norm divides a row by one number, which changes the
// scales, not the integers.
//
//   4 bits            q - z as signed bytes, which need no zero point; of every 32 columns the even
//                     ones come first, then the odd ones, as weights are unpacked
//   4 bits, nibbles   q, two per byte
//   8 bits            q - 128 as signed bytes, with the zero point z - 128
//
// A block quantises a segment if a row has one group, and a warp does if it has several.
#include "quantiser.cuh"
#include "segments.cuh"

namespace resq::cuda {
namespace {

constexpr unsigned kThreads = 256;

// Threads that share a segment.
struct Team {
    unsigned index, size;
};

struct Range {
    float smallest, largest, squares;
};

// Reduces a range over a block. `partial` (3 · warps) may be reused when it returns.
__device__ Range range_of_block(Range range, float* partial) {
    range.smallest = least_of_warp(range.smallest);
    range.largest = greatest_of_warp(range.largest);
    range.squares = sum_of_warp(range.squares);
    constexpr unsigned kWarps = kThreads / kWarp;
    if (lane_index() == 0) {
        partial[warp_index()] = range.smallest;
        partial[kWarps + warp_index()] = range.largest;
        partial[2 * kWarps + warp_index()] = range.squares;
    }
    __syncthreads();
    range = {0.0f, 0.0f, 0.0f};
    for (unsigned warp = 0; warp < kWarps; ++warp) {
        range.smallest = fminf(partial[warp], range.smallest);
        range.largest = fmaxf(partial[kWarps + warp], range.largest);
        range.squares += partial[2 * kWarps + warp];
    }
    __syncthreads();
    return range;
}

// The column of a 4-bit segment stored at byte `place`.
__device__ __forceinline__ std::int64_t column_at(std::int64_t place) {
    const std::int64_t within = place % 32;
    return place - within + within % 16 * 2 + within / 16;
}

// Writes a segment's bytes, padding included.
template <typename T>
__device__ void write_segment(const T* x, const Part& part, const Plan& plan,
                              const Quantiser& quantiser, Team team, std::int64_t bytes,
                              std::uint8_t* out) {
    const int zero = quantiser.zero_point();
    const auto integer = [&](std::int64_t column, int otherwise) {
        return column < part.width ? quantiser(to_float(x[column])) : otherwise;
    };
    for (std::int64_t place = team.index; place < bytes; place += team.size) {
        int value = 0;
        if (part.bits == 8) {
            value = integer(place, 128) - 128;
        } else if (plan.nibbles) {
            value = integer(2 * place, 0) | integer(2 * place + 1, 0) << 4;
        } else {
            value = integer(column_at(place), zero) - zero;
        }
        out[place] = static_cast<std::uint8_t>(value);
    }
}

__device__ __forceinline__ int stored_zero(const Part& part, const Plan& plan,
                                           const Quantiser& quantiser) {
    const int zero = quantiser.zero_point();
    return part.bits == 8 ? zero - 128 : plan.nibbles ? zero : 0;
}

template <typename T>
__device__ Range range_of(const T* x, std::int64_t width, Team team) {
    Range range = {0.0f, 0.0f, 0.0f};
    for (std::int64_t k = team.index; k < width; k += team.size) {
        const float value = to_float(x[k]);
        range.smallest = fminf(value, range.smallest);
        range.largest = fmaxf(value, range.largest);
        range.squares = fmaf(value, value, range.squares);
    }
    return range;
}

// A team writes a segment of a row, given its range: integers, scale and zero point.
template <typename T>
__device__ void write_all(const MatMul& m, const Plan& plan, const Segment& segment,
                          std::int64_t index, const T* columns, const Range& range, Team team,
                          const Activations& out) {
    const Part& part = m.parts[segment.part];
    const float top = top_of(part.bits), smallest = range.smallest * part.clip;
    const float scale = scale_of(smallest, range.largest * part.clip, top);
    const Quantiser quantiser = Quantiser::of(smallest, scale, top);
    const std::int64_t row = blockIdx.x, place = row * m.segments() + index;
    std::uint8_t* integers = out.integers + row * static_cast<std::int64_t>(out.row_bytes);
    write_segment(columns, part, plan, quantiser, team, segment.bytes, integers + segment.offset);
    if (team.index == 0) {
        out.scales[place] = quantiser.scale;
        out.zeros[place] = stored_zero(part, plan, quantiser);
    }
}

// The first column of a segment within a row.
__device__ __forceinline__ std::int64_t first_column(const MatMul& m, const Segment& segment) {
    return segment.group * (m.parts[0].width + m.parts[1].width) +
           (segment.part == 1 ? m.parts[0].width : 0);
}

// One row per block, one segment after the other.
template <typename T>
__global__ void __launch_bounds__(kThreads, 4)
    quantise_row(const __grid_constant__ MatMul m, Plan plan, const T* x, Activations out) {
    float* partial = shared_memory<float>();
    const std::int64_t row = blockIdx.x, segments = m.segments();
    const Team team = {threadIdx.x, kThreads};
    x += row * m.columns();
    Segment segment = first_segment(m, plan);
    float squares = 0.0f;
    for (std::int64_t i = 0; i < segments; ++i, advance(segment, m, plan)) {
        const T* columns = x + first_column(m, segment);
        const Range range =
            range_of_block(range_of(columns, m.parts[segment.part].width, team), partial);
        squares += range.squares;
        write_all(m, plan, segment, i, columns, range, team, out);
    }
    if (m.normalise && threadIdx.x == 0) {
        const float mean = squares / static_cast<float>(m.columns());
        const float factor = 1.0f / sqrtf(mean + m.epsilon);
        for (std::int64_t i = 0; i < segments; ++i) {
            out.scales[row * segments + i] *= factor;
        }
    }
}

// One row per block; warp w takes segments w, w + 8, …
template <typename T>
__global__ void __launch_bounds__(kThreads, 4)
    quantise_segments(const __grid_constant__ MatMul m, Plan plan, const T* x, Activations out) {
    const Team team = {lane_index(), kWarp};
    x += blockIdx.x * m.columns();
    Segment segment = first_segment(m, plan);
    for (std::int64_t i = 0; i < m.segments(); ++i, advance(segment, m, plan)) {
        if (i % (kThreads / kWarp) != warp_index()) {
            continue;
        }
        const T* columns = x + first_column(m, segment);
        Range range = range_of(columns, m.parts[segment.part].width, team);
        range.smallest = least_of_warp(range.smallest);
        range.largest = greatest_of_warp(range.largest);
        write_all(m, plan, segment, i, columns, range, team, out);
    }
}

template <typename T>
void quantise(const MatMul& m, const Plan& plan, const void* x, std::int64_t rows,
              const Activations& out, Queue& queue) {
    const auto grid = static_cast<unsigned>(rows);
    const auto* typed = static_cast<const T*>(x);
    if (m.groups > 1) {
        launch(quantise_segments<T>, grid, 1, kThreads, 0, queue, m, plan, typed, out);
    } else {
        launch(quantise_row<T>, grid, 1, kThreads, 3 * kThreads / kWarp * sizeof(float), queue, m,
               plan, typed, out);
    }
}

}  // namespace

void quantise_rows(const MatMul& m, const Plan& plan, ConstFloats x, std::int64_t rows,
                   const Activations& out, Queue& queue) {
    switch (x.type) {
        case Float::kHalf:
            return quantise<Half>(m, plan, x.data, rows, out, queue);
        case Float::kBFloat16:
            return quantise<BFloat16>(m, plan, x.data, rows, out, queue);
        default:
            return quantise<float>(m, plan, x.data, rows, out, queue);
    }
}

}  // namespace resq::cuda
