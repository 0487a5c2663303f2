// From the scores of a chunk to its softmax: weights, as integers of 16 bits.
//
// Each step is taken for all rows before the next one: within a row, steps wait for each other.
#pragma once

#include "functions.hpp"
#include "isa.hpp"
#include "resq/kernels.hpp"
#include "rounded.hpp"
#include "sums.hpp"

namespace resq::RESQ_ISA {

// Score of a slot that is not seen, and greatest score if none is.
constexpr float kUnseen = -0x1.fffffep+127f;

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

// The slots of a chunk that one query sees.
struct Sight {
    std::int64_t first, last;  // may be outside the chunk
    bool sees_all;

    Sight(const Attention& a, const ChunkMask& mask, std::int64_t own_slot)
        : first(a.window > 0 ? own_slot - mask.first_slot - a.window + 1 : 0),
          last(own_slot - mask.first_slot),
          sees_all(mask.shows_all && last >= kChunk - 1 && first <= 0) {}
};

// Caps the scores of one query, and hides those of slots that it does not see. Returns the
// greatest.
inline float find_greatest(const Attention& a, const ChunkMask& mask, const Sight& sight,
                           float* scores) {
    for (std::int64_t j = 0; j < kChunk && a.softcap > 0.0f; j += kLanes) {
        const F cap = broadcast(a.softcap);
        store(scores + j, cap * tanh(load(scores + j) / cap));
    }
    for (std::int64_t j = 0; j < kChunk && !sight.sees_all; ++j) {
        const bool seen = j >= sight.first && j <= sight.last && mask.shown[j] != 0.0f;
        scores[j] = seen ? scores[j] : kUnseen;
    }
    F highest = broadcast(kUnseen);
    for (std::int64_t j = 0; j < kChunk; j += kLanes) {
        highest = max(load(scores + j), highest);
    }
    return greatest(highest);
}

// The largest products of weights and scales of one query, part by part.
struct Sizes {
    float parts[2];
};

// Turns the scores of one query into weights, in place. Writes their sum: each lane is summed over
// the chunk first, then all lanes.
template <bool kSeesAll>
inline Sizes exponentiate(const SlotScales& values, float greatest_score, float* scores,
                          float* total) {
    const F top = broadcast(greatest_score);
    F sums = zero(), largest[2] = {zero(), zero()};
    for (std::int64_t j = 0; j < kChunk; j += kLanes) {
        const F score = load(scores + j);
        F weight = exp_of_weight(score - top);
        if (!kSeesAll) {
            weight = where_above(score, broadcast(kUnseen), weight);
        }
        store(scores + j, weight);
        sums = sums + weight;
        for (int p = 0; p < 2; ++p) {
            largest[p] = max(weight * load(values.scales[p] + j), largest[p]);  // not NaN
        }
    }
    *total = sum(sums);
    return {{greatest(largest[0]), greatest(largest[1])}};
}

// Rounds weights of one query times the scales of a part. `size` is the largest product. Sums
// integers times zero points where these are not taken off before (kSumsZeros).
template <bool kSumsZeros>
inline void round_weights(const Slots& values, int p, const float* weights, float size,
                          std::uint16_t* words, float* scale, std::int32_t* zeros) {
    const float safe = size > kSmallestWeight ? size : kSmallestWeight;
    const F factor = broadcast(static_cast<float>(kTopWord) / safe);
    Sums sums = no_sixteen();
    for (std::int64_t s = 0; s < values.count; s += kLanes) {
        // The same product as above. NaN, of a scale at a slot without weight, becomes 0.
        const I integers = nearest(load(weights + s) * load(values.scales.scales[p] + s) * factor);
        store_words(words + s, integers);
        if (kSumsZeros) {
            add_lane_products(sums, integers, load(values.scales.zeros[p] + s));
        }
    }
    *zeros = kSumsZeros ? sum(total(sums)) : 0;
    *scale = safe * (1.0f / static_cast<float>(kTopWord));
}

// Rows that take each step together.
constexpr std::int64_t kRowsOfStep = 8;

// Turns the scores (rows, kChunk) of queries into integers, and writes the greatest score and the
// sum of the weights to their softmaxes. The first row's own slot is `first_own`.
template <bool kSumsZeros>
inline void weigh(const Attention& a, const ChunkMask& mask, std::int64_t first_own,
                  std::int64_t rows, const Slots& values, float* scores, float* softmaxes,
                  const RoundedWeights& out) {
    const std::int64_t floats = softmax_floats(a);
    for (std::int64_t first = 0; first < rows; first += kRowsOfStep) {
        const std::int64_t last = first + kRowsOfStep < rows ? first + kRowsOfStep : rows;
        Sizes sizes[kRowsOfStep];
        bool sees_all[kRowsOfStep];
        for (std::int64_t r = first; r < last; ++r) {
            const Sight sight(a, mask, first_own + r / a.heads_per_kv());
            sees_all[r - first] = sight.sees_all;
            softmaxes[r * floats] = find_greatest(a, mask, sight, scores + r * kChunk);
        }
        for (std::int64_t r = first; r < last; ++r) {
            float* softmax = softmaxes + r * floats;
            sizes[r - first] = sees_all[r - first]
                                   ? exponentiate<true>(values.scales, softmax[0],
                                                        scores + r * kChunk, softmax + 1)
                                   : exponentiate<false>(values.scales, softmax[0],
                                                         scores + r * kChunk, softmax + 1);
        }
        for (std::int64_t i = 2 * first; i < 2 * last; ++i) {
            const auto p = static_cast<int>(i % 2);
            if (values.layout.parts[p].rank > 0) {
                round_weights<kSumsZeros>(values, p, scores + i / 2 * kChunk,
                                          sizes[i / 2 - first].parts[p], out.words + i * kChunk,
                                          out.scales + i, out.zeros + i);
            }
        }
    }
}

}  // namespace resq::RESQ_ISA
