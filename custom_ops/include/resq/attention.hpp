// MixedPrecisionAttention: RoPE, U_C, cache write and read, causal grouped-query attention.
#pragma once

#include <cstddef>
#include <cstdint>

#include "resq/tensors.hpp"

namespace resq {

// Slots of the cache that are processed together. A query's result is merged from the results of
// whole chunks, counted from slot 0, so it does not depend on what else is computed.
constexpr std::int64_t kChunk = 64;

// One part of a cache record: the offsets of its values, its scale and its zero point.
struct RecordPart {
    int bits = 4;
    std::int64_t rank = 0;  // coefficients; 0: the part is absent
    std::int64_t values = 0, scale = 0, zero = 0;
};

// The bytes that hold the key, or the value, of one token and kv head:
// low values | high values | low scale, zero | high scale, zero (resq_onnx/functions).
struct Record {
    RecordPart parts[2];  // low, high
    std::int64_t bytes = 0;

    static Record of(std::int64_t head_dim, std::int64_t high_rank, int low_bits) {
        Record r;
        r.parts[0].bits = low_bits;
        r.parts[0].rank = head_dim - high_rank;
        r.parts[1].bits = 8;
        r.parts[1].rank = high_rank;
        for (RecordPart& part : r.parts) {
            part.values = r.bytes;
            r.bytes += part.rank * part.bits / 8;
        }
        for (RecordPart& part : r.parts) {
            part.scale = r.bytes;
            part.zero = r.bytes + 2;
            r.bytes += part.rank > 0 ? 3 : 0;
        }
        return r;
    }
};

struct Attention {
    std::int64_t heads = 0;
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
    std::int64_t rotary_dim = 0;
    float scale = 1.0f;
    float softcap = 0.0f;      // a score s becomes softcap · tanh(s / softcap); 0: no cap
    std::int64_t window = -1;  // slots a query sees, its own included; -1: all
    Record record;
    std::int64_t positions = 0;         // rows of the tables
    const float* cos = nullptr;         // (positions, rotary_dim / 2)
    const float* sin = nullptr;         // the same
    const float* projection = nullptr;  // (kv_heads, head_dim, head_dim), or null
    const float* q_norm = nullptr;      // (head_dim), or null
    const float* k_norm = nullptr;      // the same
    float epsilon = 0.0f;               // of the norms

    constexpr std::int64_t heads_per_kv() const { return heads / kv_heads; }
};

// One call. The last `tokens` of `total` tokens are new; token j is in slot j. With `cached`, each
// sequence has a length of its own, and with `cache_rows` a row of the cache, of which there may be
// more than sequences: a sequence gets what it would get alone. Sequences that share a row are
// parts of one text, in other slots: all are written before any is attended to.
struct AttentionCall {
    std::int64_t batch, tokens, total;
    std::int64_t capacity;           // slots of the cache
    std::int64_t rows;               // of the cache
    const std::int64_t* cached;      // (batch): old tokens; null: total - tokens
    const std::int64_t* cache_rows;  // (batch): its row; null: its own number
    ConstFloats qkv;                 // (batch, tokens, (heads + 2 kv_heads) * head_dim)
    const std::int64_t* mask;        // (batch, total); 0 hides a slot
    const std::int64_t* positions;   // (batch, tokens), or null: the slots
    std::uint8_t* keys;              // (rows, kv_heads, capacity, record.bytes)
    std::uint8_t* values;            // the same
    float* queries;                  // (batch, kv_heads, tokens, heads_per_kv, head_dim)
    float* partial;  // (batch, kv_heads, tokens, chunks, heads_per_kv, softmax_floats)
    Floats y;        // (batch, tokens, heads * head_dim)

    constexpr std::int64_t chunks() const { return (total + kChunk - 1) / kChunk; }
    constexpr std::int64_t old(std::int64_t sequence) const {
        return cached != nullptr ? cached[sequence] : total - tokens;
    }
    constexpr std::int64_t row(std::int64_t sequence) const {
        return cache_rows != nullptr ? cache_rows[sequence] : sequence;
    }
};

// Chunks that the queries of tokens `first` to `last`, both included, see behind `old` tokens: a
// half-open range.
struct Chunks {
    std::int64_t first, last;
};
constexpr Chunks seen_chunks(const Attention& a, std::int64_t old, std::int64_t first,
                             std::int64_t last) {
    const std::int64_t begin = a.window > 0 ? old + first - a.window + 1 : 0;
    return {(begin > 0 ? begin : 0) / kChunk, (old + last) / kChunk + 1};
}

// The softmax over some slots in memory: the greatest score, the sum of the weights, and the
// weighted sum of the values (head_dim).
constexpr std::int64_t softmax_floats(const Attention& a) { return a.head_dim + 2; }

// Some queries of one sequence and kv head, and the chunks they attend to. With `is_partial`, the
// result of each chunk goes to `partial`; otherwise the merged result goes to `y`.
struct AttentionBlock {
    std::int64_t sequence, kv_head;
    std::int64_t first_token, tokens;  // at most kQueryTokens
    std::int64_t first_chunk, last_chunk;
    bool is_partial;
};

// Tokens whose queries share one unpacking of the cache.
constexpr std::int64_t kQueryTokens = 32;

}  // namespace resq
