// New tokens: norm, RoPE and projection of queries and keys, and the cache's new records.
//
// A block takes some tokens of one sequence and kv head. Its rows are, token by token, the queries
// of the heads that use this kv head, and the key.
#include "records.cuh"

namespace resq::cuda {
namespace {

constexpr unsigned kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kRowsAtOnce = 4;  // that a thread sums, for four columns
constexpr std::int64_t kMostTokens = 8;
constexpr std::int64_t kSharedBytes = 48 * 1024;

// Rows of head_dim floats in shared memory: the rotated ones, the projected keys and the values.
std::int64_t rows_of_token(const Attention& a) { return a.heads_per_kv() + 3; }

std::int64_t tokens_of_block(const Attention& a, const AttentionCall& call) {
    const std::int64_t bytes = rows_of_token(a) * a.head_dim * 4;
    std::int64_t tokens = kSharedBytes / bytes;
    tokens = tokens < kMostTokens ? tokens : kMostTokens;
    tokens = tokens < call.tokens ? tokens : call.tokens;
    return tokens > 1 ? tokens : 1;
}

// A warp loads one head, normalises it, and rotates the two halves of its leading rotary_dim
// coefficients (RoPE). A position outside the tables gives NaN.
__device__ void load_head(const Attention& a, ConstFloats qkv, std::int64_t begin,
                          const float* gain, std::int64_t position, float* out) {
    float factor = 1.0f;
    if (gain != nullptr) {
        float squares = 0.0f;
        for (std::int64_t k = lane_index(); k < a.head_dim; k += kWarp) {
            const float x = load(qkv, begin + k);
            squares = fmaf(x, x, squares);
        }
        factor = 1.0f / sqrtf(sum_of_warp(squares) / static_cast<float>(a.head_dim) + a.epsilon);
    }
    const auto element = [&](std::int64_t k) {
        const float x = load(qkv, begin + k);
        return gain != nullptr ? x * factor * gain[k] : x;
    };
    const std::int64_t half = a.rotary_dim / 2;
    const bool exists = position >= 0 && position < a.positions;
    for (std::int64_t k = lane_index(); k < half; k += kWarp) {
        const float c = exists ? a.cos[position * half + k] : float_of(0x7FC00000u);
        const float s = exists ? a.sin[position * half + k] : 0.0f;
        const float first = element(k), second = element(half + k);
        out[k] = first * c - second * s;
        out[half + k] = second * c + first * s;
    }
    for (std::int64_t k = a.rotary_dim + lane_index(); k < a.head_dim; k += kWarp) {
        out[k] = element(k);
    }
}

// Sums of some rows for some columns of the projection, in the order of k. Rows after the last
// repeat it. Four columns at once require a head size that is a multiple of four.
template <int kColumns>
__device__ void project(const float* rows, std::int64_t d, std::int64_t first, std::int64_t count,
                        const float* projection, float (&sums)[kRowsAtOnce][kColumns]) {
    const float* from[kRowsAtOnce];
    RESQ_UNROLL
    for (int j = 0; j < kRowsAtOnce; ++j) {
        from[j] = rows + (first + j < count ? first + j : count - 1) * d;
    }
    for (std::int64_t k = 0; k < d; ++k) {
        float factors[kColumns];
        if constexpr (kColumns == 4) {
            load_four(projection + k * d, factors);
        } else {
            factors[0] = projection[k * d];
        }
        RESQ_UNROLL
        for (int j = 0; j < kRowsAtOnce; ++j) {
            const float x = from[j][k];
            RESQ_UNROLL
            for (int c = 0; c < kColumns; ++c) {
                sums[j][c] = fmaf(x, factors[c], sums[j][c]);
            }
        }
    }
}

// The rows of a block: rotated, and the place for projected keys.
struct Rows {
    const float* rotated;  // (tokens, rows, d)
    float* keys;           // (tokens, d)
    std::int64_t tokens, first, head;
};

// Projects all rows: queries, times the scale, to global memory, and keys to shared memory.
template <int kColumns>
__device__ void project_rows(const Attention& a, const AttentionCall& call, const Rows& block,
                             const float* projection) {
    const std::int64_t d = a.head_dim, queries = a.heads_per_kv(), rows = queries + 1;
    const std::int64_t all_rows = block.tokens * rows, across = d / kColumns;
    const std::int64_t pieces = (all_rows + kRowsAtOnce - 1) / kRowsAtOnce;
    for (std::int64_t i = threadIdx.x; i < pieces * across; i += kThreads) {
        const std::int64_t column = i % across * kColumns, first_row = i / across * kRowsAtOnce;
        float sums[kRowsAtOnce][kColumns] = {};
        if (projection != nullptr) {
            project<kColumns>(block.rotated, d, first_row, all_rows, projection + column, sums);
        }
        RESQ_UNROLL
        for (int j = 0; j < kRowsAtOnce; ++j) {
            const std::int64_t row = first_row + j, t = row / rows, of_token = row % rows;
            if (row >= all_rows) {
                continue;
            }
            const std::int64_t place =
                (block.head * call.tokens + block.first + t) * queries + of_token;
            RESQ_UNROLL
            for (int c = 0; c < kColumns; ++c) {
                const float sum =
                    projection != nullptr ? sums[j][c] : block.rotated[row * d + column + c];
                if (of_token == queries) {
                    block.keys[t * d + column + c] = sum;
                } else {
                    call.queries[place * d + column + c] = sum * a.scale;
                }
            }
        }
    }
}

__global__ void __launch_bounds__(kThreads, 4)
    prepare(const __grid_constant__ Attention a, const __grid_constant__ AttentionCall call,
            std::int64_t tokens_at_once) {
    const std::int64_t d = a.head_dim, queries = a.heads_per_kv(), rows = queries + 1;
    const std::int64_t pieces = (call.tokens + tokens_at_once - 1) / tokens_at_once;
    const std::int64_t sequence = blockIdx.x / pieces, kv_head = blockIdx.y;
    const std::int64_t first = blockIdx.x % pieces * tokens_at_once;
    const std::int64_t left = call.tokens - first;
    const std::int64_t tokens = left < tokens_at_once ? left : tokens_at_once;
    const std::int64_t width = (a.heads + 2 * a.kv_heads) * d;
    auto* rotated = shared_memory<float>();             // (tokens, rows, d)
    float* keys = rotated + tokens_at_once * rows * d;  // (tokens, d)
    float* values = keys + tokens_at_once * d;          // (tokens, d)

    for (std::int64_t i = warp_index(); i < tokens * (rows + 1); i += kWarps) {
        const std::int64_t t = i / (rows + 1), row = i % (rows + 1);
        const std::int64_t place = sequence * call.tokens + first + t;
        const std::int64_t position = call.positions != nullptr
                                          ? call.positions[place]
                                          : call.total - call.tokens + first + t;
        const std::int64_t begin = place * width;
        if (row < queries) {
            load_head(a, call.qkv, begin + (kv_head * queries + row) * d, a.q_norm, position,
                      rotated + (t * rows + row) * d);
        } else if (row == queries) {
            load_head(a, call.qkv, begin + (a.heads + kv_head) * d, a.k_norm, position,
                      rotated + (t * rows + row) * d);
        } else {
            const std::int64_t source = begin + (a.heads + a.kv_heads + kv_head) * d;
            for (std::int64_t k = lane_index(); k < d; k += kWarp) {
                values[t * d + k] = load(call.qkv, source + k);
            }
        }
    }
    __syncthreads();

    const std::int64_t head = sequence * a.kv_heads + kv_head;
    const float* projection = a.projection != nullptr ? a.projection + kv_head * d * d : nullptr;
    const Rows block{rotated, keys, tokens, first, head};
    if (d % 4 == 0 && reinterpret_cast<std::uintptr_t>(projection) % 16 == 0) {
        project_rows<4>(a, call, block, projection);
    } else {
        project_rows<1>(a, call, block, projection);
    }
    __syncthreads();

    for (std::int64_t i = warp_index(); i < 2 * tokens; i += kWarps) {
        const std::int64_t t = i / 2;
        const std::int64_t slot = head * call.capacity + call.total - call.tokens + first + t;
        std::uint8_t* cache = i % 2 == 0 ? call.keys : call.values;
        encode_record((i % 2 == 0 ? keys : values) + t * d, a.record,
                      cache + slot * a.record.bytes);
    }
}

}  // namespace

void prepare_tokens(const Attention& a, const AttentionCall& call, Queue& queue) {
    const std::int64_t tokens = tokens_of_block(a, call);
    const std::int64_t pieces = (call.tokens + tokens - 1) / tokens;
    const auto shared = static_cast<std::size_t>(tokens * rows_of_token(a) * a.head_dim);
    launch(prepare, static_cast<unsigned>(call.batch * pieces), static_cast<unsigned>(a.kv_heads),
           kThreads, shared * sizeof(float), queue, a, call, tokens);
}

}  // namespace resq::cuda
