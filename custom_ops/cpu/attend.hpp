// Softmax attention over the packed cache, chunk by chunk of slots.
//
// For each chunk: scores = Q · Kᵀ, weights = exp(scores - greatest), result = weights · V. Few
// queries read keys and values from the packed records (direct.hpp), many share tiles of floats.
// The results of chunks are then merged in order. No step of a query depends on other queries or on
// the thread.
#pragma once

#include <cmath>
#include <cstring>

#include "direct.hpp"
#include "functions.hpp"
#include "gemm.hpp"
#include "isa.hpp"
#include "records.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// Score of a slot that is not seen, and greatest score if none is.
constexpr float kUnseen = -0x1.fffffep+127f;

// What a block of queries needs: one tile for the keys and then the values of a chunk, which fits
// in the L1 cache; scores; the softmax of a chunk and that of all chunks so far; a chunk's records.
struct AttendScratch {
    float *tile, *scores, *chunk, *merged;
    std::uint8_t* records;

    AttendScratch(const Attention& a, void* memory) {
        const std::int64_t rows = kQueryTokens * a.heads_per_kv();
        tile = static_cast<float*>(memory);
        scores = tile + padded_dim(a) * kChunk;
        chunk = scores + rows * kChunk;
        merged = chunk + rows * softmax_floats(a);
        records = reinterpret_cast<std::uint8_t*>(merged + rows * softmax_floats(a));
    }
};

inline std::size_t attend_scratch_bytes(const Attention& a) {
    const std::int64_t rows = kQueryTokens * a.heads_per_kv();
    const std::int64_t floats = padded_dim(a) * kChunk + rows * (kChunk + 2 * softmax_floats(a));
    return static_cast<std::size_t>(floats) * sizeof(float) +
           static_cast<std::size_t>(records_bytes(a.record));
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

// Which slots of a chunk the mask of a sequence shows.
struct ChunkMask {
    float shown[kChunk];  // 1 or 0
    std::int64_t first_slot;
    bool shows_all;
};

inline ChunkMask mask_of(const AttentionCall& call, std::int64_t sequence, std::int64_t chunk) {
    ChunkMask mask;
    mask.first_slot = chunk * kChunk;
    const std::int64_t left = call.old(sequence) + call.tokens - mask.first_slot;
    const std::int64_t count = left < kChunk ? left : kChunk;
    const std::int64_t* row = call.mask + sequence * call.total + mask.first_slot;
    std::int64_t shown = 0;
    for (std::int64_t j = 0; j < count; ++j) {
        mask.shown[j] = row[j] != 0 ? 1.0f : 0.0f;
        shown += row[j] != 0 ? 1 : 0;
    }
    for (std::int64_t j = count; j < kChunk; ++j) {
        mask.shown[j] = 0.0f;
    }
    mask.shows_all = shown == kChunk;
    return mask;
}

// Turns the scores of one query into weights, in place. Writes the greatest score and the sum of
// the weights: each lane is summed over the chunk first, then all lanes.
inline void weigh(const Attention& a, const ChunkMask& mask, std::int64_t own_slot, float* scores,
                  float* softmax) {
    const std::int64_t last = own_slot - mask.first_slot;  // may be outside the chunk
    const std::int64_t first = a.window > 0 ? last - a.window + 1 : 0;
    const bool sees_all = mask.shows_all && last >= kChunk - 1 && first <= 0;
    for (std::int64_t j = 0; j < kChunk && a.softcap > 0.0f; j += kLanes) {
        const F cap = broadcast(a.softcap);
        store(scores + j, cap * tanh(load(scores + j) / cap));
    }
    float seen[kChunk];
    for (std::int64_t j = 0; j < kChunk && !sees_all; ++j) {
        seen[j] = j >= first && j <= last ? mask.shown[j] : 0.0f;
        scores[j] = seen[j] != 0.0f ? scores[j] : kUnseen;
    }
    F highest = broadcast(kUnseen);
    for (std::int64_t j = 0; j < kChunk; j += kLanes) {
        highest = max(load(scores + j), highest);
    }
    const F top = broadcast(greatest(highest));
    F total = zero();
    for (std::int64_t j = 0; j < kChunk; j += kLanes) {
        F weight = exp(load(scores + j) - top);
        weight = sees_all ? weight : weight * load(seen + j);
        store(scores + j, weight);
        total = total + weight;
    }
    softmax[0] = greatest(highest);
    softmax[1] = sum(total);
}

// scores (rows, kChunk) = Q · Kᵀ. The values are needed next.
inline void score(const Record& layout, const std::uint8_t* keys, const Queries& queries,
                  std::int64_t slots, const Ahead& values, const AttendScratch& work) {
    if (queries.rows <= kDirectRows) {
        score_directly(layout, keys, queries, slots, values, work.scores);
        return;
    }
    decode_keys(layout, keys, slots, work.tile);
    gemm({queries.data, queries.head_dim, 1}, {work.tile, kChunk}, {work.scores, kChunk},
         queries.rows, queries.head_dim, slots);
}

// The values of a chunk's softmaxes = weights · V. The keys of the next chunk are needed next.
inline void weigh_values(const Attention& a, const std::uint8_t* values, const float* shown,
                         const Queries& queries, std::int64_t slots, const Ahead& keys,
                         const AttendScratch& work) {
    const std::int64_t padded = padded_dim(a), floats = softmax_floats(a);
    if (queries.rows <= kDirectRows) {
        weigh_directly(a.record, values, shown, queries, slots, keys,
                       {work.chunk + 2, floats, work.scores});
        return;
    }
    decode_values(a.record, values, slots, shown, padded, work.tile);
    gemm({work.scores, kChunk, 1}, {work.tile, padded}, {work.chunk + 2, floats}, queries.rows,
         slots, a.head_dim);
}

// Writes the softmaxes of a block's rows over one chunk to work.chunk.
inline void attend_chunk(const Attention& a, const AttentionCall& call, const AttentionBlock& block,
                         std::int64_t chunk, const AttendScratch& work) {
    const std::int64_t per_token = a.heads_per_kv();
    const std::int64_t head = block.sequence * a.kv_heads + block.kv_head;
    const Queries queries{
        call.queries + (head * call.tokens + block.first_token) * per_token * a.head_dim,
        block.tokens * per_token, a.head_dim};
    const ChunkMask mask = mask_of(call, block.sequence, chunk);
    const std::int64_t stored = call.row(block.sequence) * a.kv_heads + block.kv_head;
    const std::int64_t place = (stored * call.capacity + mask.first_slot) * a.record.bytes;
    const std::int64_t readable = call.rows * a.kv_heads * call.capacity * a.record.bytes - place;
    // No query sees a slot after the last query's own: its score and value are not needed.
    const std::int64_t first_own = call.old(block.sequence) + block.first_token;
    const std::int64_t last_own = first_own + block.tokens - 1;
    const std::int64_t seen = last_own - mask.first_slot + 1;
    const std::int64_t slots = seen < kChunk ? (seen + kLanes - 1) / kLanes * kLanes : kChunk;
    score(a.record, with_slack(a.record, {call.keys + place, readable}, slots, work.records),
          queries, slots, {call.values + place, call.values + place + slots * a.record.bytes},
          work);
    for (std::int64_t r = 0; r < queries.rows; ++r) {
        weigh(a, mask, first_own + r / per_token, work.scores + r * kChunk,
              work.chunk + r * softmax_floats(a));
    }
    const std::uint8_t* next = call.keys + place + kChunk * a.record.bytes;
    const bool is_last = mask.first_slot + kChunk > last_own;
    weigh_values(a, with_slack(a.record, {call.values + place, readable}, slots, work.records),
                 mask.shows_all ? nullptr : mask.shown, queries, slots,
                 {next, is_last ? next : next + kChunk * a.record.bytes}, work);
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
    for (std::int64_t chunk = block.first_chunk; chunk < block.last_chunk; ++chunk) {
        attend_chunk(a, call, block, chunk, work);
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
