// Many queries in float16 or bfloat16: flash attention on tensor cores over the packed cache.
//
//   a block: 128 queries of one sequence and kv head, 16 per warp; 64 slots at a time
//
// 1. A chunk's records are copied to shared memory and decoded there to T, keys and values. A row
//    is 16 bytes longer than a head, so that the eight rows of an ldmatrix are in different banks.
// 2. S = Q · Kᵀ in fragments of mma.m16n8k16; Q stays in registers.
// 3. Softmax in registers: four lanes hold a row's scores. When the greatest score grows, the sums
//    so far are scaled down.
// 4. The accumulators of S, packed to T, are the A fragments of P · V.
#include "records.cuh"

namespace resq::cuda {
namespace {

constexpr unsigned kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kRows = kWarps * 16;  // queries of a block
constexpr int kSlotTiles = kChunk / 8;
// Fewer new tokens than this are left to attention_few.cu: tiles would be mostly empty.
constexpr std::int64_t kFewTokens = 16;

// Two coefficients of a record, packed.
template <typename T>
__device__ __forceinline__ unsigned decode_pair(const Record& layout, const std::uint8_t* record,
                                                const Meaning& low, const Meaning& high,
                                                std::int64_t k) {
    return pack<T>(coefficient(layout, record, low, high, k),
                   coefficient(layout, record, low, high, k + 1));
}

template <typename T, int kDim>
struct Flash {
    static constexpr int kSteps = kDim / 16, kColumnTiles = kDim / 8;
    static constexpr int kRowBytes = 2 * kDim + 16;  // of a decoded key or value

    const Attention& a;
    const AttentionCall& call;
    std::int64_t sequence, kv_head, head, first_row, all_rows;

    std::uint8_t *keys, *values;  // (slots, kRowBytes)
    float* shown;                 // (slots)
    std::uint8_t* records;

    unsigned queries[kSteps][4];
    float results[kColumnTiles][4];
    float tops[2], sums[2];  // of rows g and g + 8

    static std::size_t shared_bytes(const Attention& a) {
        return 2 * kChunk * kRowBytes + kChunk * sizeof(float) + chunk_bytes(a.record);
    }

    __device__ void place(std::uint8_t* shared) {
        keys = shared;
        values = keys + kChunk * kRowBytes;
        shown = reinterpret_cast<float*>(values + kChunk * kRowBytes);
        records = reinterpret_cast<std::uint8_t*>(shown + kChunk);
    }

    __device__ std::int64_t row_of(int half) const {
        return first_row + warp_index() * 16 + lane_index() / 4 + static_cast<unsigned>(half) * 8;
    }

    __device__ void load_queries() {
        const unsigned t = lane_index() % 4;
        RESQ_UNROLL
        for (int half = 0; half < 2; ++half) {
            const std::int64_t row = row_of(half);
            const float* query = call.queries + (head * all_rows + row) * kDim;
            RESQ_UNROLL
            for (int step = 0; step < kSteps; ++step) {
                RESQ_UNROLL
                for (int i = 0; i < 2; ++i) {
                    const unsigned k = static_cast<unsigned>(16 * step + 8 * i) + 2 * t;
                    queries[step][2 * i + half] =
                        row < all_rows ? pack<T>(query[k], query[k + 1]) : 0u;
                }
            }
        }
        RESQ_UNROLL
        for (int j = 0; j < kColumnTiles; ++j) {
            RESQ_UNROLL
            for (int i = 0; i < 4; ++i) {
                results[j][i] = 0.0f;
            }
        }
        tops[0] = tops[1] = kUnseen;
        sums[0] = sums[1] = 0.0f;
    }

    // Decodes a chunk's records to rows of T; hidden records, which may hold anything, to zeros.
    __device__ void decode(const std::uint8_t* cache, std::int64_t count, std::uint8_t* rows) {
        const std::uint8_t* from = copy_bytes(records, cache, count * a.record.bytes);
        __syncthreads();
        for (unsigned i = threadIdx.x; i < kChunk * (kDim / 8); i += kThreads) {
            const unsigned slot = i / (kDim / 8), column = i % (kDim / 8) * 8;
            uint4 words = {0, 0, 0, 0};
            if (slot < count && shown[slot] != 0.0f) {
                const std::uint8_t* record = from + slot * a.record.bytes;
                const Meaning low = meaning_of(a.record.parts[0], record);
                const Meaning high = meaning_of(a.record.parts[1], record);
                words.x = decode_pair<T>(a.record, record, low, high, column);
                words.y = decode_pair<T>(a.record, record, low, high, column + 2);
                words.z = decode_pair<T>(a.record, record, low, high, column + 4);
                words.w = decode_pair<T>(a.record, record, low, high, column + 6);
            }
            *reinterpret_cast<uint4*>(rows + slot * kRowBytes + 2 * column) = words;
        }
        __syncthreads();
    }

    __device__ void load_chunk(std::int64_t chunk) {
        const std::int64_t first_slot = chunk * kChunk, rest = call.total - first_slot;
        const std::int64_t count = rest < kChunk ? rest : kChunk;
        const std::int64_t begin = (head * call.capacity + first_slot) * a.record.bytes;
        __syncthreads();  // all threads are done with the last chunk
        if (threadIdx.x < kChunk) {
            const std::int64_t slot = sequence * call.total + first_slot + threadIdx.x;
            shown[threadIdx.x] = threadIdx.x < count && call.mask[slot] != 0 ? 1.0f : 0.0f;
        }
        __syncthreads();
        decode(call.keys + begin, count, keys);
        decode(call.values + begin, count, values);
    }

    __device__ void score(std::int64_t chunk, float (&scores)[kSlotTiles][4]) const {
        const unsigned lane = lane_index();
        RESQ_UNROLL
        for (int j = 0; j < kSlotTiles; j += 2) {
            RESQ_UNROLL
            for (int i = 0; i < 4; ++i) {
                scores[j][i] = scores[j + 1][i] = 0.0f;
            }
            RESQ_UNROLL
            for (int step = 0; step < kSteps; ++step) {
                const unsigned slot = static_cast<unsigned>(j) * 8 + lane / 16 * 8 + lane % 8;
                const unsigned column = static_cast<unsigned>(step) * 16 + lane / 8 % 2 * 8;
                unsigned b[4];
                load_matrices(b, keys + slot * kRowBytes + 2 * column);
                mma_halves<T>(scores[j], queries[step], b[0], b[1]);
                mma_halves<T>(scores[j + 1], queries[step], b[2], b[3]);
            }
        }
        RESQ_UNROLL
        for (int j = 0; j < kSlotTiles; ++j) {
            RESQ_UNROLL
            for (int i = 0; i < 4; ++i) {
                const std::int64_t slot = j * 8 + lane % 4 * 2 + i % 2;
                const std::int64_t own =
                    call.total - call.tokens + row_of(i / 2) / a.heads_per_kv();
                const bool seen = shown[slot] != 0.0f && sees(a, own, chunk * kChunk + slot);
                scores[j][i] = seen ? capped(a, scores[j][i]) : kUnseen;
            }
        }
    }

    // Turns the scores of a chunk into weights, and rescales the sums over earlier chunks.
    __device__ void weigh(float (&scores)[kSlotTiles][4]) {
        RESQ_UNROLL
        for (int half = 0; half < 2; ++half) {
            float top = tops[half];
            RESQ_UNROLL
            for (int j = 0; j < kSlotTiles; ++j) {
                top = fmaxf(top, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            }
            top = fmaxf(top, shuffle_xor(top, 1));
            top = fmaxf(top, shuffle_xor(top, 2));
            const float before = tops[half] == kUnseen ? 0.0f : expf(tops[half] - top);
            float sum = 0.0f;
            RESQ_UNROLL
            for (int j = 0; j < kSlotTiles; ++j) {
                RESQ_UNROLL
                for (int k = 0; k < 2; ++k) {
                    float& score = scores[j][2 * half + k];
                    score = score == kUnseen ? 0.0f : expf(score - top);
                    sum += score;
                }
            }
            tops[half] = top;
            sums[half] = fmaf(sums[half], before, sum);
            RESQ_UNROLL
            for (int j = 0; j < kColumnTiles; ++j) {
                results[j][2 * half] *= before;
                results[j][2 * half + 1] *= before;
            }
        }
    }

    __device__ void add_values(const float (&weights)[kSlotTiles][4]) {
        const unsigned lane = lane_index();
        RESQ_UNROLL
        for (int step = 0; step < kChunk / 16; ++step) {
            const float (&first)[4] = weights[2 * step];
            const float (&second)[4] = weights[2 * step + 1];
            const unsigned p[4] = {pack<T>(first[0], first[1]), pack<T>(first[2], first[3]),
                                   pack<T>(second[0], second[1]), pack<T>(second[2], second[3])};
            RESQ_UNROLL
            for (int j = 0; j < kColumnTiles; j += 2) {
                const unsigned slot = static_cast<unsigned>(step) * 16 + lane % 16;
                const unsigned column = static_cast<unsigned>(j) * 8 + lane / 16 * 8;
                unsigned b[4];
                load_matrices_transposed(b, values + slot * kRowBytes + 2 * column);
                mma_halves<T>(results[j], p, b[0], b[1]);
                mma_halves<T>(results[j + 1], p, b[2], b[3]);
            }
        }
    }

    __device__ void write() const {
        RESQ_UNROLL
        for (int half = 0; half < 2; ++half) {
            float sum = sums[half];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            const std::int64_t row = row_of(half);
            const std::int64_t token = row / a.heads_per_kv(), of_kv = row % a.heads_per_kv();
            const std::int64_t place =
                ((sequence * call.tokens + token) * a.heads + kv_head * a.heads_per_kv() + of_kv) *
                kDim;
            RESQ_UNROLL
            for (int j = 0; j < kColumnTiles; ++j) {
                const float first = sum == 0.0f ? 0.0f : results[j][2 * half] / sum;
                const float second = sum == 0.0f ? 0.0f : results[j][2 * half + 1] / sum;
                if (row < all_rows) {
                    auto* y = static_cast<T*>(call.y.data) + place + j * 8 + lane_index() % 4 * 2;
                    *reinterpret_cast<unsigned*>(y) = pack<T>(first, second);
                }
            }
        }
    }
};

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    flash(const __grid_constant__ Attention a, const __grid_constant__ AttentionCall call) {
    const std::int64_t all_rows = call.tokens * a.heads_per_kv();
    const std::int64_t pieces = (all_rows + kRows - 1) / kRows;
    const std::int64_t head = blockIdx.y;
    // The last queries see the most slots, so they come first: no long block starts last.
    const std::int64_t first_row = (pieces - 1 - blockIdx.x) * kRows;
    Flash<T, kDim> one{
        a,       call,    head / a.kv_heads, head % a.kv_heads, head, first_row, all_rows,
        nullptr, nullptr, nullptr,           nullptr,           {},   {},        {},
        {}};
    one.place(shared_memory<std::uint8_t>());
    one.load_queries();
    const std::int64_t last_row = first_row + kRows < all_rows ? first_row + kRows : all_rows;
    const Chunks seen = seen_chunks(a, call.total - call.tokens, first_row / a.heads_per_kv(),
                                    (last_row - 1) / a.heads_per_kv());
    for (std::int64_t chunk = seen.first; chunk < seen.last; ++chunk) {
        one.load_chunk(chunk);
        float scores[kSlotTiles][4];
        one.score(chunk, scores);
        one.weigh(scores);
        one.add_values(scores);
    }
    one.write();
}

template <typename T, int kDim>
void launch_flash(const Attention& a, const AttentionCall& call, Queue& queue) {
    const std::int64_t rows = call.tokens * a.heads_per_kv();
    launch(flash<T, kDim>, static_cast<unsigned>((rows + kRows - 1) / kRows),
           static_cast<unsigned>(call.batch * a.kv_heads), kThreads,
           Flash<T, kDim>::shared_bytes(a), queue, a, call);
}

template <typename T>
void choose_dim(const Attention& a, const AttentionCall& call, Queue& queue) {
    switch (a.head_dim) {
        case 64:
            return launch_flash<T, 64>(a, call, queue);
        case 96:
            return launch_flash<T, 96>(a, call, queue);
        case 128:
            return launch_flash<T, 128>(a, call, queue);
        default:
            return launch_flash<T, 80>(a, call, queue);
    }
}

}  // namespace

bool can_attend_many(const Attention& a, const AttentionCall& call) {
    const bool has_kernel =
        a.head_dim == 64 || a.head_dim == 80 || a.head_dim == 96 || a.head_dim == 128;
    return has_kernel && call.y.type != Float::kSingle && call.tokens >= kFewTokens;
}

void attend_many(const Attention& a, const AttentionCall& call, Queue& queue) {
    if (call.y.type == Float::kHalf) {
        choose_dim<Half>(a, call, queue);
    } else {
        choose_dim<BFloat16>(a, call, queue);
    }
}

}  // namespace resq::cuda
