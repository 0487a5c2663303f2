// Many rows: tiles of the operands in shared memory, in a pipeline of four stages.
//
//   a block: kRows rows · 128 outputs           a stage: 64 bytes of every row and output
//            outputs                            A  kRows × 64 bytes
//        ┌────┬────┬────┬────┐                  B  128 × 64 bytes, or 32 where weights of 4 bits
//   rows │ w0 │ w1 │ w2 │ w3 │                     are unpacked: as many columns as A's
//        ├────┼────┼────┼────┤
//        │ w4 │ w5 │ w6 │ w7 │                  a warp: kRows / 2 rows · 32 outputs, in fragments
//        └────┴────┴────┴────┘                  of mma.m16n8k32 (m16n8k64 with 4-bit tensor cores)
//
// 1. cp.async loads tile i + 3 while tile i is multiplied. 16-byte chunks are swizzled within a row
//    (`chunk_place`), so that the eight rows of an ldmatrix are in different banks.
// 2. ldmatrix loads both fragments. A word of eight 4-bit weights becomes two registers of bytes by
//    a shift and two masks; the activations are stored in that order (quantise.cu).
// 3. A tile holds columns of one segment. At the end of a segment its integer sums become floats
//    (`add_segment`) and restart at 0, as the scales change from segment to segment.
// 4. Zero points are subtracted by means of the weights' column sums, which dp4a computes.
#include "segments.cuh"

namespace resq::cuda {
namespace {

constexpr unsigned kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kWarpRows = 2, kWarpColumns = 4;  // warps of a block: two by four
constexpr int kStages = 4;
constexpr int kTileBytes = 64;  // of each row and output
constexpr int kSteps = kTileBytes / kStepBytes;
constexpr int kChunk = 16;                                 // bytes that one cp.async loads
constexpr int kOutputTiles = 4;                            // of 8 outputs, per warp
constexpr int kOutputs = kWarpColumns * kOutputTiles * 8;  // of a block

// The offset of chunk `chunk` of a row in a tile whose rows are `row_bytes` long.
__device__ __forceinline__ unsigned chunk_place(unsigned row, unsigned chunk, unsigned row_bytes) {
    const unsigned exchanged =
        row_bytes == kTileBytes ? chunk ^ (row >> 1 & 3u) : chunk ^ (row >> 2 & 1u);
    return row * row_bytes + exchanged * kChunk;
}

// The position of the loader, and of the multiplier, in the sequence of tiles.
struct Walk {
    Segment segment;
    int byte;   // of the quantised segment at which the tile begins
    int index;  // of the segment

    __device__ void next(const Problem& p) {
        byte += kTileBytes;
        if (byte >= segment.bytes) {
            advance(segment, p.matmul, p.plan);
            byte = 0;
            ++index;
        }
    }
};

__device__ __forceinline__ int count_tiles(const Problem& p) {
    int tiles = 0;
    for (const Part& part : p.matmul.parts) {
        tiles += static_cast<int>(p.matmul.groups) *
                 ((segment_bytes(part, p.plan) + kTileBytes - 1) / kTileBytes);
    }
    return tiles;
}

// The work of one block.
//
// kRowTiles   tiles of 16 rows per warp: 2 or 4, for blocks of 64 or 128 rows
// kAlignment  bytes to which every segment of the weights is aligned: 16, 4 or 1 (Plan)
// kNibbles    4-bit parts are multiplied by 4-bit tensor cores, not unpacked to 8 bits
template <int kRowTiles, int kAlignment, bool kNibbles>
struct Tile {
    static constexpr int kRows = kWarpRows * kRowTiles * 16;
    static constexpr unsigned kStageBytes = (kRows + kOutputs) * kTileBytes;

    const Problem& p;
    std::uint8_t* shared;
    int first_row, first_output;

    int sums[kRowTiles][kOutputTiles][4];
    int columns[kOutputTiles];  // sums of weights of output g of each tile
    float results[kRowTiles][kOutputTiles][4];

    // Whether a segment's weights are unpacked from 4 bits to 8.
    __device__ bool unpacks(const Segment& segment) const {
        return !kNibbles && p.matmul.parts[segment.part].bits == 4;
    }

    __device__ void load(const Walk& walk, unsigned stage) const {
        std::uint8_t* a = shared + stage * kStageBytes;
        std::uint8_t* b = a + kRows * kTileBytes;
        const Segment& segment = walk.segment;
        for (unsigned i = threadIdx.x; i < kRows * (kTileBytes / kChunk); i += kThreads) {
            const unsigned row = i / (kTileBytes / kChunk), chunk = i % (kTileBytes / kChunk);
            const int byte = walk.byte + static_cast<int>(chunk) * kChunk;
            const std::int64_t of_all = first_row + static_cast<int>(row);
            const bool exists = of_all < p.rows && byte < segment.bytes;
            const std::uint8_t* from = p.x.integers +
                                       of_all * static_cast<std::int64_t>(p.x.row_bytes) +
                                       segment.offset + byte;
            copy_async<kChunk>(a + chunk_place(row, chunk, kTileBytes),
                               exists ? from : p.x.integers, exists ? kChunk : 0);
        }
        const Part& part = p.matmul.parts[segment.part];
        const unsigned row_bytes = unpacks(segment) ? kTileBytes / 2 : kTileBytes;
        const unsigned chunks = row_bytes / kChunk;
        // Columns of the segment before the tile, and columns per chunk.
        const int before = kNibbles && part.bits == 4 ? 2 * walk.byte : walk.byte;
        const int width = 8 * kChunk / part.bits;
        for (unsigned i = threadIdx.x; i < kOutputs * chunks; i += kThreads) {
            const unsigned output = i / chunks, chunk = i % chunks;
            load_chunk(segment, first_output + static_cast<int>(output),
                       before + static_cast<int>(chunk) * width,
                       b + chunk_place(output, chunk, row_bytes));
        }
    }

    __device__ void load_chunk(const Segment& segment, std::int64_t output, std::int64_t column,
                               std::uint8_t* target) const {
        const Part& part = p.matmul.parts[segment.part];
        if constexpr (kAlignment == 1) {
            *reinterpret_cast<uint4*>(target) = load_weights<1>(p.matmul, segment, output, column);
        } else {
            const bool exists = output < p.matmul.outputs && column < part.width;
            const std::int64_t element =
                exists ? (output * p.matmul.groups + segment.group) * part.width + column : 0;
            const std::int64_t left = exists ? (part.width - column) * part.bits / 8 : 0;
            const std::uint8_t* from = part.weights + element * part.bits / 8;
            RESQ_UNROLL
            for (int byte = 0; byte < kChunk; byte += kAlignment) {
                const bool is_there = byte < left;
                copy_async<kAlignment>(target + byte, is_there ? from + byte : part.weights,
                                       is_there ? kAlignment : 0);
            }
        }
    }

    __device__ void multiply(const Walk& walk, unsigned stage) {
        const std::uint8_t* a = shared + stage * kStageBytes;
        const std::uint8_t* b = a + kRows * kTileBytes;
        const int bits = p.matmul.parts[walk.segment.part].bits;
        RESQ_UNROLL
        for (int step = 0; step < kSteps; ++step) {
            if (walk.byte + step * kStepBytes >= walk.segment.bytes) {
                break;
            }
            unsigned weights[kOutputTiles][2];
            if (unpacks(walk.segment)) {
                load_unpacked(b, step, weights);
            } else {
                load_bytes(b, step, weights);
            }
            if (bits == 8) {
                sum_bytes(weights);
            } else if (kNibbles) {
                sum_nibbles(weights);
            }
            RESQ_UNROLL
            for (int i = 0; i < kRowTiles; ++i) {
                unsigned rows[4];
                load_rows(a, i, step, rows);
                RESQ_UNROLL
                for (int j = 0; j < kOutputTiles; ++j) {
                    if (kNibbles && bits == 4) {
                        mma_nibbles(sums[i][j], rows, weights[j][0], weights[j][1]);
                    } else {
                        mma_bytes(sums[i][j], rows, weights[j][0], weights[j][1]);
                    }
                }
            }
        }
    }

    // The A fragment of row tile `i`: the matrices of rows 0-7 and 8-15, then the same 16 bytes
    // further on.
    __device__ void load_rows(const std::uint8_t* a, int i, int step, unsigned (&out)[4]) const {
        const unsigned lane = lane_index();
        const unsigned row =
            (warp_index() / kWarpColumns * kRowTiles + static_cast<unsigned>(i)) * 16 + lane % 16;
        const unsigned chunk = 2 * static_cast<unsigned>(step) + lane / 16;
        load_matrices(out, a + chunk_place(row, chunk, kTileBytes));
    }

    // The B fragments of all output tiles as they are stored: two tiles per load.
    __device__ void load_bytes(const std::uint8_t* b, int step,
                               unsigned (&out)[kOutputTiles][2]) const {
        const unsigned lane = lane_index();
        RESQ_UNROLL
        for (int j = 0; j < kOutputTiles; j += 2) {
            const unsigned output =
                (warp_index() % kWarpColumns * kOutputTiles + static_cast<unsigned>(j)) * 8 +
                lane / 16 * 8 + lane % 8;
            const unsigned chunk = 2 * static_cast<unsigned>(step) + lane / 8 % 2;
            unsigned loaded[4];
            load_matrices(loaded, b + chunk_place(output, chunk, kTileBytes));
            out[j][0] = loaded[0];
            out[j][1] = loaded[1];
            out[j + 1][0] = loaded[2];
            out[j + 1][1] = loaded[3];
        }
    }

    // The same from 4 bits: one load for four tiles, where each word becomes two registers.
    __device__ void load_unpacked(const std::uint8_t* b, int step,
                                  unsigned (&out)[kOutputTiles][2]) const {
        const unsigned output = warp_index() % kWarpColumns * kOutputTiles * 8 + lane_index();
        unsigned loaded[4];
        load_matrices(loaded, b + chunk_place(output, static_cast<unsigned>(step), kTileBytes / 2));
        RESQ_UNROLL
        for (int j = 0; j < kOutputTiles; ++j) {
            out[j][0] = even_nibbles(loaded[j]);
            out[j][1] = odd_nibbles(loaded[j]);
        }
    }

    __device__ void sum_bytes(const unsigned (&weights)[kOutputTiles][2]) {
        RESQ_UNROLL
        for (int j = 0; j < kOutputTiles; ++j) {
            RESQ_UNROLL
            for (int i = 0; i < 2; ++i) {
                const unsigned word = weights[j][i];
                columns[j] = dp4a(static_cast<int>(word), 0x01010101, columns[j]);
            }
        }
    }

    // Sixteen times the sums: `end_segment` divides them.
    __device__ void sum_nibbles(const unsigned (&weights)[kOutputTiles][2]) {
        RESQ_UNROLL
        for (int j = 0; j < kOutputTiles; ++j) {
            RESQ_UNROLL
            for (int i = 0; i < 2; ++i) {
                const unsigned word = weights[j][i];
                columns[j] = dp4a(static_cast<int>(even_nibbles(word)), 0x01010101, columns[j]);
                columns[j] = dp4a(static_cast<int>(odd_nibbles(word)), 0x01010101, columns[j]);
            }
        }
    }

    __device__ int row_of(int i, int half) const {
        return first_row +
               static_cast<int>(
                   (warp_index() / kWarpColumns * kRowTiles + static_cast<unsigned>(i)) * 16 +
                   lane_index() / 4 + static_cast<unsigned>(half) * 8);
    }
    __device__ int output_of(int j, int k) const {
        return first_output +
               static_cast<int>(
                   (warp_index() % kWarpColumns * kOutputTiles + static_cast<unsigned>(j)) * 8 +
                   lane_index() % 4 * 2 + static_cast<unsigned>(k));
    }

    __device__ void end_segment(const Walk& walk) {
        const Part& part = p.matmul.parts[walk.segment.part];
        const int segments = static_cast<int>(p.matmul.segments());
        const int sum_shift = unpacks(walk.segment) ? kNibbleShift : 0;
        const int column_shift = kNibbles && part.bits == 4 ? kNibbleShift : 0;
        RESQ_UNROLL
        for (int j = 0; j < kOutputTiles; ++j) {
            // Four lanes share an output's column sum; lane t has the results of outputs 2 t and 2
            // t + 1.
            int column = columns[j];
            column += shuffle_xor(column, 1);
            column += shuffle_xor(column, 2);
            column >>= column_shift;
            columns[j] = 0;
            RESQ_UNROLL
            for (int k = 0; k < 2; ++k) {
                const int source = (static_cast<int>(lane_index()) % 4 * 2 + k) * 4;
                const int column_sum = shuffle(column, source);
                const int output = output_of(j, k);
                const float weight_scale = output < p.matmul.outputs ? part.scales[output] : 0.0f;
                RESQ_UNROLL
                for (int i = 0; i < kRowTiles; ++i) {
                    RESQ_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const int row = row_of(i, half);
                        const int place = row * segments + walk.index;
                        const float scale = row < p.rows ? p.x.scales[place] : 0.0f;
                        const int zero = row < p.rows ? p.x.zeros[place] : 0;
                        int& sum = sums[i][j][2 * half + k];
                        float& result = results[i][j][2 * half + k];
                        result = add_segment(
                            result, subtract_zero_point(sum >> sum_shift, zero, column_sum), scale,
                            weight_scale);
                        sum = 0;
                    }
                }
            }
        }
    }

    __device__ void write() const {
        RESQ_UNROLL
        for (int i = 0; i < kRowTiles; ++i) {
            RESQ_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int row = row_of(i, half);
                RESQ_UNROLL
                for (int j = 0; j < kOutputTiles; ++j) {
                    RESQ_UNROLL
                    for (int k = 0; k < 2; ++k) {
                        const int output = output_of(j, k);
                        if (row < p.rows && output < p.matmul.outputs) {
                            write_output(p.matmul, p.out, row, output, results[i][j][2 * half + k]);
                        }
                    }
                }
            }
        }
    }
};

// Consecutive blocks take the same outputs of consecutive rows, so they share weights in the L2
// cache. Template parameters: see Tile.
template <int kRowTiles, int kAlignment, bool kNibbles>
__global__ void __launch_bounds__(kThreads) multiply_many_rows(const __grid_constant__ Problem p) {
    using OwnTile = Tile<kRowTiles, kAlignment, kNibbles>;
    if constexpr (kNibbles && !kHasNibbleUnits) {
        return;  // never launched on such a GPU
    }
    OwnTile tile{p,
                 shared_memory<std::uint8_t>(),
                 static_cast<int>(blockIdx.x) * OwnTile::kRows,
                 static_cast<int>(blockIdx.y) * kOutputs,
                 {},
                 {},
                 {}};
    const int tiles = count_tiles(p);
    Walk loaded{first_segment(p.matmul, p.plan), 0, 0}, multiplied = loaded;
    for (int stage = 0; stage < kStages - 1; ++stage) {
        if (stage < tiles) {
            tile.load(loaded, static_cast<unsigned>(stage));
            loaded.next(p);
        }
        commit_copies();
    }
    for (int i = 0; i < tiles; ++i) {
        wait_for_copies<kStages - 2>();
        __syncthreads();  // tile i has arrived, and all threads are done with tile i - 1
        if (i + kStages - 1 < tiles) {
            tile.load(loaded, static_cast<unsigned>((i + kStages - 1) % kStages));
            loaded.next(p);
        }
        commit_copies();
        tile.multiply(multiplied, static_cast<unsigned>(i % kStages));
        if (multiplied.byte + kTileBytes >= multiplied.segment.bytes) {
            tile.end_segment(multiplied);
        }
        multiplied.next(p);
    }
    tile.write();
}

template <int kRowTiles, int kAlignment, bool kNibbles>
void launch_many(const Problem& p, Queue& queue) {
    using OwnTile = Tile<kRowTiles, kAlignment, kNibbles>;
    const auto rows = static_cast<unsigned>((p.rows + OwnTile::kRows - 1) / OwnTile::kRows);
    const auto outputs = static_cast<unsigned>((p.matmul.outputs + kOutputs - 1) / kOutputs);
    launch(multiply_many_rows<kRowTiles, kAlignment, kNibbles>, rows, outputs, kThreads,
           kStages * OwnTile::kStageBytes, queue, p);
}

// Rows up to which blocks of half the height suffice.
constexpr std::int64_t kLowRows = 64;

template <int kAlignment, bool kNibbles>
void choose_height(const Problem& p, Queue& queue) {
    if (p.rows <= kLowRows) {
        launch_many<2, kAlignment, kNibbles>(p, queue);
    } else {
        launch_many<4, kAlignment, kNibbles>(p, queue);
    }
}

}  // namespace

void multiply_many(const Problem& p, Queue& queue) {
    if (p.plan.alignment == 16) {
        p.plan.nibbles ? choose_height<16, true>(p, queue) : choose_height<16, false>(p, queue);
    } else if (p.plan.alignment == 4) {
        p.plan.nibbles ? choose_height<4, true>(p, queue) : choose_height<4, false>(p, queue);
    } else {
        choose_height<1, false>(p, queue);
    }
}

}  // namespace resq::cuda
