// The cases of MixedPrecisionAttention, and their inputs.
#pragma once

#include <functional>

#include "resq/attention.hpp"
#include "values.hpp"

namespace resq::tests {

enum class Mask { kAll, kHoles, kRightPadding, kNothing };

struct AttentionCase {
    std::int64_t batch, kv_heads, heads_per_kv, head_dim, tokens, total;
    std::int64_t high_rank, rotary_dim, window, capacity;
    int low_bits;
    Mask mask;
    Float type;
    bool projects, normalises, positions, caps;

    std::string name() const;
};

// Everything a case needs, in memory of the exact size.
struct AttentionInputs {
    Attention attention;
    std::vector<float> cos, sin, projection, q_norm, k_norm;
    Values qkv;
    std::vector<std::int64_t> mask, positions;
    std::vector<std::uint8_t> keys, values;  // before the call

    AttentionInputs(const AttentionCase& c, Random& random);

  private:
    void fill_parameters(const AttentionCase& c, Random& random);
    void fill_mask(const AttentionCase& c, Random& random);
    std::vector<std::uint8_t> cache(const AttentionCase& c, Random& random) const;
};

// Visits the cases of a selection.
void each_attention(const Selection& selection,
                    const std::function<void(const AttentionCase&, const AttentionInputs&)>& visit);

}  // namespace resq::tests
