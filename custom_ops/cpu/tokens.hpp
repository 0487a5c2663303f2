// New tokens: norm, RoPE and projection of queries and keys, and the cache's new records.
#pragma once

#include <cmath>

#include "gemm.hpp"
#include "isa.hpp"
#include "quantise.hpp"
#include "records.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// Tokens whose queries are projected together.
constexpr std::int64_t kTokensOfBlock = 8;

inline std::size_t prepare_scratch_bytes(const Attention& a) {
    const std::int64_t rows = kTokensOfBlock * (a.heads_per_kv() + 1);
    return static_cast<std::size_t>((2 * rows + 2) * a.head_dim) * sizeof(float) + kSlack;
}

// x · gain / sqrt(mean(x²) + epsilon), in place.
inline void normalise(float* x, const float* gain, std::int64_t width, float epsilon) {
    const F factor = broadcast(inverse_rms(x, width, epsilon));
    for (std::int64_t k = 0; k < width; k += kLanes) {
        const std::int64_t left = width - k;
        store_first(x + k, load_first(x + k, left) * factor * load_first(gain + k, left), left);
    }
}

// RoPE, in place: rotates the two halves of the leading rotary_dim coefficients.
inline void rotate(float* x, const float* cos, const float* sin, std::int64_t half) {
    for (std::int64_t k = 0; k < half; k += kLanes) {
        const std::int64_t left = half - k;
        const F first = load_first(x + k, left), second = load_first(x + half + k, left);
        const F c = load_first(cos + k, left), s = load_first(sin + k, left);
        store_first(x + k, first * c - second * s, left);
        store_first(x + half + k, second * c + first * s, left);
    }
}

// Loads one head, normalises and rotates it.
template <typename T>
inline void load_head(const Attention& a, const T* head, const float* gain, std::int64_t position,
                      float* out) {
    for (std::int64_t k = 0; k < a.head_dim; k += kLanes) {
        store_first(out + k, load_first(head + k, a.head_dim - k), a.head_dim - k);
    }
    if (gain != nullptr) {
        normalise(out, gain, a.head_dim, a.epsilon);
    }
    const std::int64_t half = a.rotary_dim / 2;
    rotate(out, a.cos + position * half, a.sin + position * half, half);
}

// Tokens `first` to `last` of one sequence, at most kTokensOfBlock, and one kv head.
template <typename T>
inline void prepare_block(const Attention& a, const AttentionCall& call, std::int64_t sequence,
                          std::int64_t kv_head, std::int64_t first, std::int64_t last,
                          float* scratch) {
    const std::int64_t d = a.head_dim, queries = a.heads_per_kv(), rows = queries + 1;
    const std::int64_t width = (a.heads + 2 * a.kv_heads) * d;
    float* rotated = scratch;  // per token: its queries, then its key
    float* projected = rotated + kTokensOfBlock * rows * d;
    float* value = projected + kTokensOfBlock * rows * d;
    const T* qkv = static_cast<const T*>(call.qkv.data) + sequence * call.tokens * width;
    for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t position = call.positions != nullptr
                                          ? call.positions[sequence * call.tokens + t]
                                          : call.old(sequence) + t;
        const T* token = qkv + t * width;
        float* out = rotated + (t - first) * rows * d;
        for (std::int64_t i = 0; i < queries; ++i) {
            load_head(a, token + (kv_head * queries + i) * d, a.q_norm, position, out + i * d);
        }
        load_head(a, token + (a.heads + kv_head) * d, a.k_norm, position, out + queries * d);
    }
    if (a.projection != nullptr) {
        gemm({rotated, d, 1}, {a.projection + kv_head * d * d, d}, {projected, d},
             (last - first) * rows, d, d);
        rotated = projected;
    }
    const std::int64_t head = sequence * a.kv_heads + kv_head;
    for (std::int64_t t = first; t < last; ++t) {
        float* token = rotated + (t - first) * rows * d;
        float* out = call.queries + (head * call.tokens + t) * queries * d;
        for (std::int64_t k = 0; k < queries * d; k += kLanes) {
            const std::int64_t left = queries * d - k;
            store_first(out + k, load_first(token + k, left) * broadcast(a.scale), left);
        }
        const std::int64_t stored = call.row(sequence) * a.kv_heads + kv_head;
        const std::int64_t slot = stored * call.capacity + call.old(sequence) + t;
        encode_record(token + queries * d, a.record, call.keys + slot * a.record.bytes);
        const T* source = qkv + t * width + (a.heads + a.kv_heads + kv_head) * d;
        for (std::int64_t k = 0; k < d; k += kLanes) {
            store_first(value + k, load_first(source + k, d - k), d - k);
        }
        encode_record(value, a.record, call.values + slot * a.record.bytes);
    }
}

inline void prepare_tokens(const Attention& a, const AttentionCall& call, std::int64_t first,
                           std::int64_t last, void* scratch) {
    auto* work = static_cast<float*>(scratch);
    while (first < last) {
        const std::int64_t sequence = first / call.tokens, t = first % call.tokens;
        std::int64_t end = t + kTokensOfBlock < call.tokens ? t + kTokensOfBlock : call.tokens;
        end = end < t + last - first ? end : t + last - first;
        for (std::int64_t g = 0; g < a.kv_heads; ++g) {
            if (call.qkv.type == Float::kSingle) {
                prepare_block<float>(a, call, sequence, g, t, end, work);
            } else {
                prepare_block<std::uint16_t>(a, call, sequence, g, t, end, work);
            }
        }
        first += end - t;
    }
}

}  // namespace resq::RESQ_ISA
