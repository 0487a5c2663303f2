// Few queries over a long cache: each record is read once and decoded in registers.
//
//   a block: 4 or 8 queries of one sequence and kv head, 4 chunks of 64 slots (a split)
//
//   scores   a thread per slot and four queries: decodes the key, sums products
//   weights  a warp per query: greatest score, exponentials, their sum
//   values   a thread per two columns and four queries: decodes them slot by slot
//
// Chunks are merged in order within a split, and `combine` merges the splits in order. Splits are
// counted from slot 0, so a result depends on neither the batch nor the GPU. Works for any head
// size and type.
#include "records.cuh"

namespace resq::cuda {
namespace {

constexpr int kRowsAtOnce = 4;  // queries per thread; a block has as many, or twice as many
constexpr std::int64_t kChunksOfSplit = 4;
constexpr unsigned kCombineThreads = 128;

constexpr unsigned threads_of(int rows) {
    return static_cast<unsigned>(rows / kRowsAtOnce * kChunk);
}

std::int64_t splits_of(const AttentionCall& call) {
    return (call.chunks() + kChunksOfSplit - 1) / kChunksOfSplit;
}

// Shared memory of a block.
template <int kRows>
struct Work {
    static constexpr unsigned kThreads = threads_of(kRows);

    float *queries, *merged;  // (rows, d)
    float* weights;           // (slots, rows): scores, then weights
    float *tops, *sums;       // (rows): over the slots so far
    float *before, *after;    // (rows): the factors of a merge
    float* shown;             // (slots)
    Meaning* meanings;        // (slots, parts)
    std::uint8_t* records;

    __device__ Work(const Attention& a, float* memory) {
        queries = memory;
        merged = queries + kRows * a.head_dim;
        weights = merged + kRows * a.head_dim;  // 16-byte aligned, as there are 4 or 8 rows
        tops = weights + kRows * kChunk;
        sums = tops + kRows;
        before = sums + kRows;
        after = before + kRows;
        shown = after + kRows;
        meanings = reinterpret_cast<Meaning*>(shown + kChunk);
        records = reinterpret_cast<std::uint8_t*>(meanings + 2 * kChunk);
    }
    static std::size_t bytes(const Attention& a) {
        const std::int64_t floats =
            2 * kRows * a.head_dim + kRows * kChunk + 4 * kRows + kChunk + 4 * kChunk;
        return static_cast<std::size_t>(floats) * sizeof(float) + chunk_bytes(a.record);
    }
};

// Loads the records of a chunk, and their meanings.
template <int kRows>
__device__ const std::uint8_t* load_records(const Attention& a, const std::uint8_t* cache,
                                            std::int64_t count, const Work<kRows>& work) {
    const std::uint8_t* records = copy_bytes(work.records, cache, count * a.record.bytes);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 2 * kChunk; i += Work<kRows>::kThreads) {
        const unsigned slot = i / 2;
        // A hidden record may hold anything: it counts as zeros.
        work.meanings[i] = slot < count && work.shown[slot] != 0.0f
                               ? meaning_of(a.record.parts[i % 2], records + slot * a.record.bytes)
                               : Meaning{0.0f, 0.0f};
    }
    __syncthreads();
    return records;
}

// The rows of a block, and the slot of each row's own token.
struct Rows {
    std::int64_t first, count, per_token, old;

    __device__ std::int64_t own(std::int64_t row) const { return old + (first + row) / per_token; }
};

// Adds the products of four coefficients of a key, from `k` on, to the scores of four queries.
__device__ __forceinline__ void add_products(const float* queries, std::int64_t d, std::int64_t k,
                                             const float (&key)[4], float (&scores)[kRowsAtOnce]) {
    RESQ_UNROLL
    for (int j = 0; j < kRowsAtOnce; ++j) {
        float query[4];
        load_four(queries + j * d + k, query);
        RESQ_UNROLL
        for (int c = 0; c < 4; ++c) {
            scores[j] = fmaf(query[c], key[c], scores[j]);
        }
    }
}

// Products of a key with four queries, in the order of the coefficients. Takes four at a time if
// parts and heads are multiples of four: two bytes of 4 bits, or four of 8.
__device__ __forceinline__ void multiply_key(const Attention& a, const std::uint8_t* record,
                                             const Meaning& low, const Meaning& high,
                                             const float* queries, float (&scores)[kRowsAtOnce]) {
    const RecordPart& first = a.record.parts[0];
    if (first.rank % 4 != 0 || a.record.parts[1].rank % 4 != 0) {
        for (std::int64_t k = 0; k < a.head_dim; ++k) {
            const float key = coefficient(a.record, record, low, high, k);
            RESQ_UNROLL
            for (int j = 0; j < kRowsAtOnce; ++j) {
                scores[j] = fmaf(queries[j * a.head_dim + k], key, scores[j]);
            }
        }
        return;
    }
    std::int64_t k = 0;
    for (; k < first.rank && first.bits == 4; k += 4) {
        const unsigned one = record[k / 2], two = record[k / 2 + 1];
        const float key[4] = {low.of(one & 15u), low.of(one >> 4), low.of(two & 15u),
                              low.of(two >> 4)};
        add_products(queries, a.head_dim, k, key, scores);
    }
    for (; k < a.head_dim; k += 4) {
        const bool is_low = k < first.rank;
        const Meaning& meaning = is_low ? low : high;
        const std::uint8_t* bytes =
            record + (is_low ? k : a.record.parts[1].values + k - first.rank);
        const float key[4] = {meaning.of(bytes[0]), meaning.of(bytes[1]), meaning.of(bytes[2]),
                              meaning.of(bytes[3])};
        add_products(queries, a.head_dim, k, key, scores);
    }
}

template <int kRows>
__device__ void score(const Attention& a, const Rows& rows, const std::uint8_t* records,
                      std::int64_t first_slot, std::int64_t count, const Work<kRows>& work) {
    const unsigned slot = threadIdx.x % kChunk, first = threadIdx.x / kChunk * kRowsAtOnce;
    float scores[kRowsAtOnce] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (slot < count) {
        multiply_key(a, records + slot * a.record.bytes, work.meanings[2 * slot],
                     work.meanings[2 * slot + 1], work.queries + first * a.head_dim, scores);
    }
    RESQ_UNROLL
    for (unsigned j = 0; j < kRowsAtOnce; ++j) {
        const bool seen = slot < count && work.shown[slot] != 0.0f &&
                          sees(a, rows.own(first + j), first_slot + slot);
        work.weights[slot * kRows + first + j] = seen ? capped(a, scores[j]) : kUnseen;
    }
    __syncthreads();
}

template <int kRows>
__device__ void weigh(const Work<kRows>& work) {
    constexpr unsigned kWarps = Work<kRows>::kThreads / kWarp;
    for (unsigned row = warp_index(); row < kRows; row += kWarps) {
        float& first = work.weights[lane_index() * kRows + row];
        float& second = work.weights[(lane_index() + kWarp) * kRows + row];
        const float top = greatest_of_warp(fmaxf(first, second));
        // Slots that are not seen have weight 0, even if none is seen.
        first = first == kUnseen ? 0.0f : expf(first - top);
        second = second == kUnseen ? 0.0f : expf(second - top);
        const float sum = sum_of_warp(first + second);
        if (lane_index() == 0) {
            const float old = work.tops[row], greatest = fmaxf(old, top);
            work.before[row] = old == kUnseen ? 0.0f : expf(old - greatest);
            work.after[row] = top == kUnseen ? 0.0f : expf(top - greatest);
            work.sums[row] = fmaf(sum, work.after[row], work.sums[row] * work.before[row]);
            work.tops[row] = greatest;
        }
    }
    __syncthreads();
}

// Two columns and four queries per thread; an odd last column goes alone.
template <int kRows>
__device__ void add_values(const Attention& a, const std::uint8_t* records, std::int64_t count,
                           const Work<kRows>& work) {
    const std::int64_t pairs = (a.head_dim + 1) / 2;
    for (std::int64_t i = threadIdx.x; i < kRows / kRowsAtOnce * pairs;
         i += Work<kRows>::kThreads) {
        const std::int64_t column = i % pairs * 2, first = i / pairs * kRowsAtOnce;
        const bool is_pair = column + 1 < a.head_dim;
        float values[2][kRowsAtOnce] = {};
        // The parts of the two columns, nearly always the same.
        const std::int64_t rank = a.record.parts[0].rank;
        const unsigned part = column < rank ? 0 : 1, next_part = column + 1 < rank ? 0 : 1;
        for (std::int64_t slot = 0; slot < count; ++slot) {
            const std::uint8_t* record = records + slot * a.record.bytes;
            const Meaning own = work.meanings[2 * slot + part];
            const Meaning next = part == next_part ? own : work.meanings[2 * slot + next_part];
            const float one = coefficient(a.record, record, own, own, column);
            const float two =
                is_pair ? coefficient(a.record, record, next, next, column + 1) : 0.0f;
            float weights[kRowsAtOnce];
            load_four(work.weights + slot * kRows + first, weights);
            RESQ_UNROLL
            for (int j = 0; j < kRowsAtOnce; ++j) {
                values[0][j] = fmaf(weights[j], one, values[0][j]);
                values[1][j] = fmaf(weights[j], two, values[1][j]);
            }
        }
        RESQ_UNROLL
        for (int c = 0; c < 2; ++c) {
            RESQ_UNROLL
            for (int j = 0; j < kRowsAtOnce; ++j) {
                if (c == 0 || is_pair) {
                    const std::int64_t row = first + j;
                    float& merged = work.merged[row * a.head_dim + column + c];
                    merged = fmaf(values[c][j], work.after[row], merged * work.before[row]);
                }
            }
        }
    }
}

__device__ void write_result(const Attention& a, const AttentionCall& call, std::int64_t sequence,
                             std::int64_t kv_head, std::int64_t row, std::int64_t column,
                             float merged, float sum) {
    const std::int64_t token = row / a.heads_per_kv(), head = row % a.heads_per_kv();
    const std::int64_t place =
        (sequence * call.tokens + token) * a.heads + kv_head * a.heads_per_kv() + head;
    store(call.y, place * a.head_dim + column, sum == 0.0f ? 0.0f : merged / sum);
}

// The address of the softmax over a split: greatest score, sum of weights, weighted sum of values.
__device__ float* partial_of(const Attention& a, const AttentionCall& call, std::int64_t head,
                             std::int64_t row, std::int64_t splits, std::int64_t split) {
    const std::int64_t rows = call.tokens * a.heads_per_kv();
    return call.partial + ((head * rows + row) * splits + split) * softmax_floats(a);
}

template <int kRows>
__global__ void __launch_bounds__(threads_of(kRows), 4)
    attend_split(const __grid_constant__ Attention a, const __grid_constant__ AttentionCall call,
                 std::int64_t splits) {
    constexpr unsigned kThreads = threads_of(kRows);
    const Work<kRows> work(a, shared_memory<float>());
    const std::int64_t d = a.head_dim, all_rows = call.tokens * a.heads_per_kv();
    const std::int64_t pieces = (all_rows + kRows - 1) / kRows;
    const std::int64_t head = blockIdx.x / pieces, split = blockIdx.y;
    const std::int64_t sequence = head / a.kv_heads, kv_head = head % a.kv_heads;
    const std::int64_t first = blockIdx.x % pieces * kRows, left = all_rows - first;
    const Rows rows{first, left < kRows ? left : kRows, a.heads_per_kv(), call.total - call.tokens};
    const float* queries = call.queries + (head * all_rows + first) * d;
    for (std::int64_t i = threadIdx.x; i < kRows * d; i += kThreads) {
        work.queries[i] = i < rows.count * d ? queries[i] : 0.0f;
        work.merged[i] = 0.0f;
    }
    if (threadIdx.x < kRows) {
        work.tops[threadIdx.x] = kUnseen;
        work.sums[threadIdx.x] = 0.0f;
    }
    const Chunks seen =
        seen_chunks(a, rows.old, first / rows.per_token, (first + rows.count - 1) / rows.per_token);
    const std::int64_t begin = split * kChunksOfSplit;
    for (std::int64_t chunk = begin; chunk < begin + kChunksOfSplit; ++chunk) {
        if (chunk < seen.first || chunk >= seen.last) {
            continue;
        }
        const std::int64_t first_slot = chunk * kChunk, rest = call.total - first_slot;
        const std::int64_t count = rest < kChunk ? rest : kChunk;
        const std::int64_t place = (head * call.capacity + first_slot) * a.record.bytes;
        __syncthreads();  // all threads are done with the last chunk
        if (threadIdx.x < kChunk) {
            work.shown[threadIdx.x] =
                threadIdx.x < count &&
                        call.mask[sequence * call.total + first_slot + threadIdx.x] != 0
                    ? 1.0f
                    : 0.0f;
        }
        score(a, rows, load_records(a, call.keys + place, count, work), first_slot, count, work);
        weigh(work);
        add_values(a, load_records(a, call.values + place, count, work), count, work);
    }
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < rows.count * d; i += kThreads) {
        const std::int64_t row = i / d, column = i % d;
        if (splits == 1) {
            write_result(a, call, sequence, kv_head, first + row, column, work.merged[i],
                         work.sums[row]);
            continue;
        }
        float* partial = partial_of(a, call, head, first + row, splits, split);
        partial[2 + column] = work.merged[i];
        if (column == 0) {
            partial[0] = work.tops[row];
            partial[1] = work.sums[row];
        }
    }
}

// A block per query; a thread takes some of its columns.
__global__ void __launch_bounds__(kCombineThreads)
    combine(const __grid_constant__ Attention a, const __grid_constant__ AttentionCall call,
            std::int64_t splits) {
    const std::int64_t rows = call.tokens * a.heads_per_kv();
    const std::int64_t head = blockIdx.x / rows, row = blockIdx.x % rows;
    for (std::int64_t column = threadIdx.x; column < a.head_dim; column += kCombineThreads) {
        float top = kUnseen, sum = 0.0f, merged = 0.0f;
        for (std::int64_t split = 0; split < splits; ++split) {
            const float* partial = partial_of(a, call, head, row, splits, split);
            if (partial[0] == kUnseen) {
                continue;
            }
            const float greatest = fmaxf(top, partial[0]);
            const float before = top == kUnseen ? 0.0f : expf(top - greatest);
            const float after = expf(partial[0] - greatest);
            sum = fmaf(partial[1], after, sum * before);
            merged = fmaf(partial[2 + column], after, merged * before);
            top = greatest;
        }
        write_result(a, call, head / a.kv_heads, head % a.kv_heads, row, column, merged, sum);
    }
}

template <int kRows>
void launch_splits(const Attention& a, const AttentionCall& call, std::int64_t splits,
                   Queue& queue) {
    const std::int64_t rows = call.tokens * a.heads_per_kv(), pieces = (rows + kRows - 1) / kRows;
    launch(attend_split<kRows>, static_cast<unsigned>(call.batch * a.kv_heads * pieces),
           static_cast<unsigned>(splits), threads_of(kRows), Work<kRows>::bytes(a), queue, a, call,
           splits);
}

}  // namespace

std::size_t query_floats(const Attention& a, const AttentionCall& call) {
    return static_cast<std::size_t>(call.batch * call.tokens * a.heads * a.head_dim);
}

std::size_t partial_floats(const Attention& a, const AttentionCall& call) {
    const std::int64_t splits = splits_of(call);
    return splits == 1 || can_attend_many(a, call)
               ? 0
               : static_cast<std::size_t>(call.batch * call.tokens * a.heads * splits *
                                          softmax_floats(a));
}

void attend_few(const Attention& a, const AttentionCall& call, Queue& queue) {
    const std::int64_t rows = call.tokens * a.heads_per_kv(), splits = splits_of(call);
    if (rows <= kRowsAtOnce) {
        launch_splits<kRowsAtOnce>(a, call, splits, queue);
    } else {
        launch_splits<2 * kRowsAtOnce>(a, call, splits, queue);
    }
    if (splits > 1) {
        launch(combine, static_cast<unsigned>(call.batch * a.kv_heads * rows), 1, kCombineThreads,
               0, queue, a, call, splits);
    }
}

}  // namespace resq::cuda
