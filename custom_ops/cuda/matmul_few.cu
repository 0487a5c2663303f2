// Few rows, at most 16: each weight is read from global memory once, directly into registers.
//
//   a block: 16 outputs, 8 warps          a warp's load: 64 bytes of each of 16 outputs
//   ┌ warp 0 ┬ warp 1 ┬ … ┬ warp 7 ┐      lane (g, t) reads bytes 16 t … of outputs g and g + 8,
//   │  K     │        │   │        │      which are the A fragments of mma.m16n8k32 (word j of a
//   └────────┴────────┴───┴────────┘      load is step j); rows of x are the columns of B
//
// The warps share the columns of one long segment, or take one segment each if there are many.
// Integer sums are exact in any order, so this changes no bit of a result.
#include "segments.cuh"

namespace resq::cuda {
namespace {

constexpr unsigned kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kOutputs = 16;    // outputs of a block: rows of an A fragment
constexpr int kRowTile = 8;     // rows of x: columns of a B fragment
constexpr int kLoadBytes = 64;  // of each output that a warp loads at once

// The sums of a warp: (outputs, rows), and each output's sum of weights.
template <int kTiles>
struct Sums {
    int products[kOutputs][kTiles * kRowTile];
    int columns[kOutputs];
};

// The sums of a lane.
template <int kTiles>
struct Fragments {
    int products[kTiles][4];
    int columns[2];  // of outputs g and g + 8

    __device__ void clear() {
        for (auto& tile : products) {
            for (int& sum : tile) {
                sum = 0;
            }
        }
        columns[0] = columns[1] = 0;
    }
};

__device__ __forceinline__ unsigned word_of(const uint4& words, int i) {
    return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

__device__ __forceinline__ uint4 load_row(const Problem& p, std::int64_t row, std::int64_t offset,
                                          bool exists) {
    if (!exists || row >= p.rows) {
        return {0, 0, 0, 0};
    }
    return *reinterpret_cast<const uint4*>(p.x.integers +
                                           row * static_cast<std::int64_t>(p.x.row_bytes) + offset);
}

// 128 columns of a 4-bit segment. Lane t loads columns 32 t … of them; in x, even columns come
// before odd ones.
template <int kTiles>
__device__ void multiply_nibbles(const Problem& p, const Segment& segment, std::int64_t column,
                                 const uint4 (&weights)[2], Fragments<kTiles>& sums) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
    const std::int64_t place = column + 32 * t;
    uint4 even[kTiles], odd[kTiles];
    RESQ_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
        const bool exists = place < segment.bytes;
        even[tile] = load_row(p, tile * kRowTile + g, segment.offset + place, exists);
        odd[tile] = load_row(p, tile * kRowTile + g, segment.offset + place + 16, exists);
    }
    RESQ_UNROLL
    for (int j = 0; j < 4; ++j) {
        const unsigned first = word_of(weights[0], j), second = word_of(weights[1], j);
        const unsigned a[4] = {even_nibbles(first), even_nibbles(second), odd_nibbles(first),
                               odd_nibbles(second)};
        RESQ_UNROLL
        for (int tile = 0; tile < kTiles; ++tile) {
            mma_bytes(sums.products[tile], a, word_of(even[tile], j), word_of(odd[tile], j));
        }
    }
}

// 64 columns of an 8-bit segment. Two words of a load are one step.
template <int kTiles>
__device__ void multiply_bytes(const Problem& p, const Segment& segment, std::int64_t column,
                               const uint4 (&weights)[2], Fragments<kTiles>& sums) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
    const std::int64_t place = column + 16 * t;
    uint4 x[kTiles];
    RESQ_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
        x[tile] = load_row(p, tile * kRowTile + g, segment.offset + place, place < segment.bytes);
    }
    RESQ_UNROLL
    for (int j = 0; j < 4; j += 2) {
        const unsigned a[4] = {word_of(weights[0], j), word_of(weights[1], j),
                               word_of(weights[0], j + 1), word_of(weights[1], j + 1)};
        RESQ_UNROLL
        for (int tile = 0; tile < kTiles; ++tile) {
            mma_bytes(sums.products[tile], a, word_of(x[tile], j), word_of(x[tile], j + 1));
        }
    }
    RESQ_UNROLL
    for (int j = 0; j < 4; ++j) {
        RESQ_UNROLL
        for (int i = 0; i < 2; ++i) {
            sums.columns[i] =
                dp4a(static_cast<int>(word_of(weights[i], j)), 0x01010101, sums.columns[i]);
        }
    }
}

// Takes loads `from`, `from + stride`, … of a segment, and loads the next while multiplying the
// last.
template <int kAlignment, int kTiles>
__device__ void multiply_segment(const Problem& p, const Segment& segment,
                                 std::int64_t first_output, std::int64_t from, std::int64_t stride,
                                 Fragments<kTiles>& sums) {
    const Part& part = p.matmul.parts[segment.part];
    const std::int64_t columns = 8 * kLoadBytes / part.bits;
    const std::int64_t g = lane_index() / 4, t = lane_index() % 4;
    const auto load = [&](std::int64_t column, uint4(&weights)[2]) {
        column += t * (columns / 4);
        weights[0] = load_weights<kAlignment>(p.matmul, segment, first_output + g, column);
        weights[1] = load_weights<kAlignment>(p.matmul, segment, first_output + g + 8, column);
    };
    uint4 weights[2], next[2];
    load(from * columns, weights);
    for (std::int64_t i = from; i * columns < part.width; i += stride) {
        load((i + stride) * columns, next);
        if (part.bits == 4) {
            multiply_nibbles(p, segment, i * columns, weights, sums);
        } else {
            multiply_bytes(p, segment, i * columns, weights, sums);
        }
        weights[0] = next[0];
        weights[1] = next[1];
    }
}

// Writes a warp's sums to shared memory.
template <int kTiles>
__device__ void share(const Part& part, const Fragments<kTiles>& sums, Sums<kTiles>& shared) {
    const unsigned g = lane_index() / 4, t = lane_index() % 4;
    const int shift = part.bits == 4 ? kNibbleShift : 0;
    RESQ_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
        RESQ_UNROLL
        for (unsigned i = 0; i < 4; ++i) {
            shared.products[g + i / 2 * 8][static_cast<unsigned>(tile * kRowTile) + 2 * t + i % 2] =
                sums.products[tile][i] >> shift;
        }
    }
    RESQ_UNROLL
    for (int i = 0; i < 2; ++i) {
        int columns = sums.columns[i];
        columns += shuffle_xor(columns, 1);
        columns += shuffle_xor(columns, 2);
        if (t == 0) {
            shared.columns[g + static_cast<unsigned>(i) * 8] = columns;
        }
    }
}

// kAlignment  bytes to which every segment of the weights is aligned: 16, 4 or 1 (Plan)
// kTiles      tiles of 8 rows of x: 1 for up to 8 rows, 2 for up to 16
template <int kAlignment, int kTiles>
__global__ void __launch_bounds__(kThreads) multiply_few_rows(const __grid_constant__ Problem p) {
    auto* shared = shared_memory<Sums<kTiles>>();  // (warps)
    const MatMul& m = p.matmul;
    const std::int64_t first_output = static_cast<std::int64_t>(blockIdx.x) * kOutputs;
    const std::int64_t segments = m.segments();
    const bool takes_turns = m.groups > 1;
    // The result that this thread writes.
    const unsigned output = threadIdx.x % kOutputs, row = threadIdx.x / kOutputs;
    const bool writes =
        row < p.rows && row < kTiles * kRowTile && first_output + output < m.outputs;
    Segment segment = first_segment(m, p.plan);
    float result = 0.0f;
    for (std::int64_t i = 0; i < segments;) {
        // The segments of this round: one that the warps share, or one per warp.
        const std::int64_t left = segments - i;
        const unsigned count = !takes_turns    ? 1
                               : left < kWarps ? static_cast<unsigned>(left)
                                               : kWarps;
        Segment own = segment;
        for (unsigned s = 0; takes_turns && s < warp_index() && s + 1 < count; ++s) {
            advance(own, m, p.plan);
        }
        Fragments<kTiles> sums;
        sums.clear();
        if (!takes_turns) {
            multiply_segment<kAlignment, kTiles>(p, own, first_output, warp_index(), kWarps, sums);
        } else if (warp_index() < count) {
            multiply_segment<kAlignment, kTiles>(p, own, first_output, 0, 1, sums);
        }
        share(m.parts[own.part], sums, shared[warp_index()]);
        __syncthreads();
        for (unsigned s = 0; s < count; ++s, advance(segment, m, p.plan)) {
            if (!writes) {
                continue;
            }
            const unsigned begin = takes_turns ? s : 0, end = takes_turns ? s + 1 : kWarps;
            int products = 0, columns = 0;
            for (unsigned warp = begin; warp < end; ++warp) {
                products += shared[warp].products[output][row];
                columns += shared[warp].columns[output];
            }
            const std::int64_t place = row * segments + i + s;
            const float weight_scale = m.parts[segment.part].scales[first_output + output];
            result = add_segment(result, subtract_zero_point(products, p.x.zeros[place], columns),
                                 p.x.scales[place], weight_scale);
        }
        __syncthreads();
        i += count;
    }
    if (writes) {
        write_output(m, p.out, row, first_output + output, result);
    }
}

template <int kAlignment>
void launch_few(const Problem& p, Queue& queue) {
    const auto blocks = static_cast<unsigned>((p.matmul.outputs + kOutputs - 1) / kOutputs);
    if (p.rows <= kRowTile) {
        launch(multiply_few_rows<kAlignment, 1>, blocks, 1, kThreads, kWarps * sizeof(Sums<1>),
               queue, p);
    } else {
        launch(multiply_few_rows<kAlignment, 2>, blocks, 1, kThreads, kWarps * sizeof(Sums<2>),
               queue, p);
    }
}

}  // namespace

void multiply_few(const Problem& p, Queue& queue) {
    switch (p.plan.alignment) {
        case 16:
            return launch_few<16>(p, queue);
        case 4:
            return launch_few<4>(p, queue);
        default:
            return launch_few<1>(p, queue);
    }
}

}  // namespace resq::cuda
