// Softmax attention over the packed cache, chunk by chunk of slots.
//
// For each chunk: scores = Q · Kᵀ, weights = exp(scores - greatest), result = weights · V. Queries
// and weights are rounded to 16 bits, and their products with the integers of records are summed
// exactly. Few queries read records where they are (direct.hpp), many share a tile (tiles.hpp). The
// results of chunks are then merged in order. No step of a query depends on other queries or on the
// thread.
#pragma once

#include <cmath>
#include <cstring>

#include "direct.hpp"
#include "functions.hpp"
#include "isa.hpp"
#include "records.hpp"
#include "resq/kernels.hpp"
#include "rounded.hpp"
#include "tiles.hpp"
#include "weights.hpp"

namespace resq::RESQ_ISA {

// What a block of queries needs: one tile for the keys and then the values of a chunk, which fits
// in the L1 cache; scores; the softmax of a chunk and that of all chunks so far; rounded queries
// and weights; a chunk's records.
struct AttendScratch {
    std::int32_t* tile;
    float *scores, *chunk, *merged;
    RoundedQueries queries;
    RoundedWeights weights;
    std::uint8_t* records;
    std::size_t bytes = 0;  // of all

    // Without memory, only `bytes` is of use.
    AttendScratch(const Attention& a, void* memory) : memory_(static_cast<std::uint8_t*>(memory)) {
        const std::int64_t rows = kQueryTokens * a.heads_per_kv();
        tile = take<std::int32_t>(tile_dwords(a.record));
        scores = take<float>(rows * kChunk);
        chunk = take<float>(rows * softmax_floats(a));
        merged = take<float>(rows * softmax_floats(a));
        queries.pairs = take<std::int32_t>(rows * stored_pairs(a.record));
        queries.totals = take<std::int32_t>(2 * rows);
        queries.scales = take<float>(2 * rows);
        weights.words = take<std::uint16_t>(2 * rows * kChunk);
        weights.scales = take<float>(2 * rows);
        weights.zeros = take<std::int32_t>(2 * rows);
        records = take<std::uint8_t>(records_bytes(a.record));
    }

  private:
    std::uint8_t* memory_;

    template <typename T>
    T* take(std::int64_t count) {
        constexpr std::size_t kLine = 64;
        std::uint8_t* taken = memory_ == nullptr ? nullptr : memory_ + bytes;
        bytes += (static_cast<std::size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
        return reinterpret_cast<T*>(taken);
    }
};

inline std::size_t attend_scratch_bytes(const Attention& a) {
    return AttendScratch(a, nullptr).bytes;
}

// Up to sixteen merges, each of the softmax over later slots into that over earlier ones. The
// greatest scores alone decide all factors, so these are computed together.
struct Merges {
    float* into[kLanes];
    const float* later[kLanes];
    alignas(64) float before[kLanes] = {}, after[kLanes] = {};
    int count = 0;

    // Adds one, unless a softmax has seen no slot.
    void add(float* merged, const float* next, std::int64_t dim) {
        if (next[0] == kUnseen) {
            return;
        }
        if (merged[0] == kUnseen) {
            std::memcpy(merged, next, static_cast<std::size_t>(dim + 2) * sizeof(float));
            return;
        }
        const float top = merged[0] > next[0] ? merged[0] : next[0];
        before[count] = merged[0] - top;
        after[count] = next[0] - top;
        later[count] = next;
        into[count++] = merged;
        merged[0] = top;
    }

    void find_factors() {
        store(before, exp(load(before)));
        store(after, exp(load(after)));
    }

    // Merges number `first` to `last`, which are into the same softmax, in order.
    void merge(int first, int last, std::int64_t dim) const {
        float* merged = into[first];
        for (int i = first; i < last; ++i) {
            merged[1] = std::fma(later[i][1], after[i], merged[1] * before[i]);
        }
        for (std::int64_t k = 2; k < dim + 2; k += kLanes) {
            const std::int64_t left = dim + 2 - k;
            F total = load_first(merged + k, left);
            for (int i = first; i < last; ++i) {
                total = fma(load_first(later[i] + k, left), broadcast(after[i]),
                            total * broadcast(before[i]));
            }
            store_first(merged + k, total, left);
        }
    }
};

// Merges the softmaxes of a chunk into those over earlier chunks, for some rows.
inline void merge_rows(float* merged, const float* chunk, std::int64_t rows, std::int64_t dim) {
    const std::int64_t floats = dim + 2;
    for (std::int64_t first = 0; first < rows; first += kLanes) {
        Merges merges;
        for (std::int64_t r = first; r < rows && r < first + kLanes; ++r) {
            merges.add(merged + r * floats, chunk + r * floats, dim);
        }
        merges.find_factors();
        for (int i = 0; i < merges.count; ++i) {
            merges.merge(i, i + 1, dim);
        }
    }
}

// Merges `count` softmaxes, `stride` floats apart, into the first of them.
inline void merge_chunks(float* softmaxes, std::int64_t stride, std::int64_t count,
                         std::int64_t dim) {
    for (std::int64_t first = 1; first < count; first += kLanes) {
        Merges merges;
        for (std::int64_t c = first; c < count && c < first + kLanes; ++c) {
            merges.add(softmaxes, softmaxes + c * stride, dim);
        }
        if (merges.count > 0) {
            merges.find_factors();
            merges.merge(0, merges.count, dim);
        }
    }
}

template <typename T>
inline void write_result(const float* merged, std::int64_t dim, T* y) {
    const F weight = broadcast(merged[0] == kUnseen ? 1.0f : merged[1]);
    for (std::int64_t k = 0; k < dim; k += kLanes) {
        const F values = merged[0] == kUnseen ? zero() : load_first(merged + 2 + k, dim - k);
        // Other queries' slots, which have weight 0 here, turn a -0 into 0: adding 0 always does.
        store_first(y + k, values / weight + zero(), dim - k);
    }
}

// Writes y of one query head from its softmax over all chunks; zeros if it saw no slot.
inline void write_result(const Attention& a, const AttentionCall& call, std::int64_t sequence,
                         std::int64_t token, std::int64_t head, const float* merged) {
    const std::int64_t place = ((sequence * call.tokens + token) * a.heads + head) * a.head_dim;
    if (call.y.type == Float::kSingle) {
        write_result(merged, a.head_dim, static_cast<float*>(call.y.data) + place);
    } else {
        write_result(merged, a.head_dim, static_cast<std::uint16_t*>(call.y.data) + place);
    }
}

// Writes the softmaxes of a block's rows over one chunk to work.chunk.
inline void attend_chunk(const Attention& a, const AttentionCall& call, const AttentionBlock& block,
                         std::int64_t chunk, const AttendScratch& work, SlotScales& scales) {
    const std::int64_t rows = block.tokens * a.heads_per_kv();
    const ChunkMask mask = mask_of(call, block.sequence, chunk);
    const std::int64_t stored = call.row(block.sequence) * a.kv_heads + block.kv_head;
    const std::int64_t place = (stored * call.capacity + mask.first_slot) * a.record.bytes;
    const std::int64_t readable = call.rows * a.kv_heads * call.capacity * a.record.bytes - place;
    // No query sees a slot after the last query's own: its score and value are not needed.
    const std::int64_t first_own = call.old(block.sequence) + block.first_token;
    const std::int64_t last_own = first_own + block.tokens - 1;
    const std::int64_t seen = last_own - mask.first_slot + 1;
    const std::int64_t count = seen < kChunk ? (seen + kLanes - 1) / kLanes * kLanes : kChunk;
    const Slots keys{a.record,
                     with_slack(a.record, {call.keys + place, readable}, count, work.records),
                     count, scales};
    read_scales(a.record, keys.records, count, 1.0f / kQueryPower, scales);
    const bool is_direct = rows <= kDirectRows;
    if (is_direct) {
        const std::uint8_t* next = call.values + place;
        score_directly(keys, work.queries, rows, {next, next + count * a.record.bytes},
                       work.scores);
    } else {
        score_tile(keys, work.queries, rows, work.tile, work.scores);
    }
    const Slots values{a.record,
                       with_slack(a.record, {call.values + place, readable}, count, work.records),
                       count, scales};
    read_scales(a.record, values.records, count, 1.0f, scales);
    if (is_direct) {
        weigh<true>(a, mask, first_own, rows, values, work.scores, work.chunk, work.weights);
    } else {
        weigh<false>(a, mask, first_own, rows, values, work.scores, work.chunk, work.weights);
    }
    const ValueRows out{work.chunk + 2, softmax_floats(a)};
    if (is_direct) {
        const std::uint8_t* next = call.keys + place + kChunk * a.record.bytes;
        const bool is_last = mask.first_slot + kChunk > last_own;
        weigh_directly(values, work.weights, rows,
                       {next, is_last ? next : next + kChunk * a.record.bytes}, out);
    } else {
        weigh_tile(values, work.weights, rows, work.tile, out);
    }
}

// The address of the softmaxes of one token's heads over one chunk.
inline float* partial_of(const Attention& a, const AttentionCall& call, std::int64_t sequence,
                         std::int64_t kv_head, std::int64_t token, std::int64_t chunk) {
    const std::int64_t place =
        ((sequence * a.kv_heads + kv_head) * call.tokens + token) * call.chunks() + chunk;
    return call.partial + place * a.heads_per_kv() * softmax_floats(a);
}

inline void attend(const Attention& a, const AttentionCall& call, const AttentionBlock& block,
                   void* scratch) {
    const AttendScratch work(a, scratch);
    const std::int64_t per_token = a.heads_per_kv(), rows = block.tokens * per_token;
    const std::int64_t floats = softmax_floats(a);
    for (std::int64_t r = 0; r < rows; ++r) {
        work.merged[r * floats] = kUnseen;
    }
    const std::int64_t head = block.sequence * a.kv_heads + block.kv_head;
    const float* queries =
        call.queries + (head * call.tokens + block.first_token) * per_token * a.head_dim;
    SlotScales scales{};
    round_queries(a.record, {queries, rows, a.head_dim}, work.queries);
    for (std::int64_t chunk = block.first_chunk; chunk < block.last_chunk; ++chunk) {
        attend_chunk(a, call, block, chunk, work, scales);
        if (block.is_partial) {
            for (std::int64_t t = 0; t < block.tokens; ++t) {
                std::memcpy(partial_of(a, call, block.sequence, block.kv_head,
                                       block.first_token + t, chunk),
                            work.chunk + t * per_token * floats,
                            static_cast<std::size_t>(per_token * floats) * sizeof(float));
            }
            continue;
        }
        merge_rows(work.merged, work.chunk, rows, a.head_dim);
    }
    for (std::int64_t r = 0; r < rows && !block.is_partial; ++r) {
        write_result(a, call, block.sequence, block.first_token + r / per_token,
                     block.kv_head * per_token + r % per_token, work.merged + r * floats);
    }
}

inline void combine(const Attention& a, const AttentionCall& call, std::int64_t sequence,
                    std::int64_t kv_head, std::int64_t token) {
    const std::int64_t per_token = a.heads_per_kv(), floats = softmax_floats(a);
    const Chunks seen = seen_chunks(a, call.old(sequence), token, token);
    for (std::int64_t i = 0; i < per_token; ++i) {
        float* merged = partial_of(a, call, sequence, kv_head, token, seen.first) + i * floats;
        merge_chunks(merged, per_token * floats, seen.last - seen.first, a.head_dim);
        write_result(a, call, sequence, token, kv_head * per_token + i, merged);
    }
}

}  // namespace resq::RESQ_ISA
