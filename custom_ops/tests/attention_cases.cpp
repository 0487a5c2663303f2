// MixedPrecisionAttention: which cases there are, and random inputs for them.
#include "attention_cases.hpp"

#include <algorithm>

namespace resq::tests {
namespace {

struct Lengths {
    std::int64_t tokens, total;
};
const Lengths kLengths[] = {{1, 1},   {1, 63},  {1, 64},  {1, 65},  {1, 127}, {1, 129},
                            {1, 200}, {2, 128}, {3, 65},  {5, 127}, {8, 129}, {9, 9},
                            {33, 33}, {64, 64}, {65, 65}, {40, 200}};

AttentionCase any_options(std::int64_t dim, std::int64_t heads_per_kv, const Lengths& lengths,
                          Random& random) {
    AttentionCase c{};
    c.batch = random.pick({1, 2});
    c.kv_heads = random.pick({1, 2});
    c.heads_per_kv = heads_per_kv;
    c.head_dim = dim;
    c.tokens = lengths.tokens;
    c.total = lengths.total;
    c.high_rank = random.pick({INT64_C(0), dim / 4 * 2, INT64_C(2), dim, dim / 8 * 2});
    c.rotary_dim = random.pick({dim, dim / 4 * 2, INT64_C(2)});
    c.window = random.pick({-1, -1, 1, 7, 64, 70});
    c.capacity = c.total + random.pick({0, 1, 70});
    c.low_bits = random.one_in(4) ? 8 : 4;
    c.mask =
        random.pick({Mask::kAll, Mask::kAll, Mask::kHoles, Mask::kRightPadding, Mask::kNothing});
    c.type = random.one_in(3) ? Float::kHalf : Float::kSingle;
    c.projects = !random.one_in(3);
    c.normalises = random.one_in(3);
    c.positions = random.one_in(3);
    c.caps = random.one_in(4);
    return c;
}

}  // namespace

std::string AttentionCase::name() const {
    const auto text = [](std::int64_t number) { return std::to_string(number); };
    return "attention batch=" + text(batch) + " kv_heads=" + text(kv_heads) +
           " heads_per_kv=" + text(heads_per_kv) + " dim=" + text(head_dim) +
           " tokens=" + text(tokens) + " total=" + text(total) + " capacity=" + text(capacity) +
           " high=" + text(high_rank) + " low_bits=" + text(low_bits) +
           " rotary=" + text(rotary_dim) + " window=" + text(window) +
           " mask=" + text(static_cast<int>(mask)) + (type == Float::kHalf ? " float16" : "") +
           (projects ? " projection" : "") + (normalises ? " norms" : "") +
           (positions ? " positions" : "") + (caps ? " cap" : "");
}

AttentionInputs::AttentionInputs(const AttentionCase& c, Random& random) {
    Attention& a = attention;
    a.heads = c.kv_heads * c.heads_per_kv;
    a.kv_heads = c.kv_heads;
    a.head_dim = c.head_dim;
    a.rotary_dim = c.rotary_dim;
    a.scale = 0.125f;
    a.softcap = c.caps ? 3.0f : 0.0f;
    a.window = c.window;
    a.record = Record::of(c.head_dim, c.high_rank, c.low_bits);
    fill_parameters(c, random);
    qkv = Values::random(c.type, c.batch * c.tokens * (a.heads + 2 * a.kv_heads) * c.head_dim,
                         random);
    fill_mask(c, random);
    if (c.positions) {
        positions.resize(static_cast<std::size_t>(c.batch * c.tokens));
        for (std::int64_t& position : positions) {
            position = random.below(c.total);
        }
    }
    keys = cache(c, random);
    values = cache(c, random);
}

void AttentionInputs::fill_parameters(const AttentionCase& c, Random& random) {
    Attention& a = attention;
    a.positions = c.total;
    for (std::int64_t i = 0; i < c.total * c.rotary_dim / 2; ++i) {
        const float t = random.real();  // tan(angle / 2), as sin and cos differ between libraries
        cos.push_back((1.0f - t * t) / (1.0f + t * t));
        sin.push_back(2.0f * t / (1.0f + t * t));
    }
    cos.shrink_to_fit();
    sin.shrink_to_fit();
    a.cos = cos.data();
    a.sin = sin.data();
    if (c.projects) {
        projection = random_floats(c.kv_heads * c.head_dim * c.head_dim, random);
        a.projection = projection.data();
    }
    if (c.normalises) {
        q_norm = random_floats(c.head_dim, random);
        k_norm = random_floats(c.head_dim, random);
        a.q_norm = q_norm.data();
        a.k_norm = k_norm.data();
        a.epsilon = 1e-6f;
    }
}

void AttentionInputs::fill_mask(const AttentionCase& c, Random& random) {
    mask.assign(static_cast<std::size_t>(c.batch * c.total), 1);
    const auto last = mask.end() - c.total;  // the last sequence
    if (c.mask == Mask::kHoles) {
        for (std::int64_t& shown : mask) {
            shown = random.one_in(4) ? 0 : 1;
        }
    } else if (c.mask == Mask::kRightPadding) {
        std::fill(last + (c.total + 1) / 2, mask.end(), 0);
    } else if (c.mask == Mask::kNothing) {
        std::fill(last, mask.end(), 0);
    }
}

// Old tokens have records with ordinary scales. A slot that is hidden or unused is all ones, so its
// scales are NaN.
std::vector<std::uint8_t> AttentionInputs::cache(const AttentionCase& c, Random& random) const {
    const Record& record = attention.record;
    std::vector<std::uint8_t> bytes(
        static_cast<std::size_t>(c.batch * c.kv_heads * c.capacity * record.bytes), 0xFF);
    std::uint8_t* slot = bytes.data();
    for (std::int64_t i = 0; i < c.batch * c.kv_heads * c.capacity; ++i, slot += record.bytes) {
        const std::int64_t sequence = i / c.capacity / c.kv_heads, token = i % c.capacity;
        if (token >= c.total - c.tokens ||
            mask[static_cast<std::size_t>(sequence * c.total + token)] == 0) {
            continue;
        }
        std::generate(slot, slot + record.bytes,
                      [&] { return static_cast<std::uint8_t>(random.below(256)); });
        for (const RecordPart& part : record.parts) {
            if (part.rank > 0) {
                slot[part.scale + 1] = static_cast<std::uint8_t>(random.pick({0x3C, 0x3D, 0x3E}));
                slot[part.zero] &= part.bits == 4 ? 15 : 255;
            }
        }
    }
    return bytes;
}

void each_attention(
    const Selection& selection,
    const std::function<void(const AttentionCase&, const AttentionInputs&)>& visit) {
    Random random(selection.seed + 4);
    for (const std::int64_t dim : {8, 16, 64, 80, 96, 128, 256}) {
        // Few rows take another path than many (kDirectRows): 1 to 8 rows are few, 9 are many.
        for (const std::int64_t heads_per_kv : {1, 2, 3, 7, 8}) {
            for (const Lengths& lengths : kLengths) {
                for (int time = 0; time < 3; ++time) {
                    if ((selection.quick && !random.one_in(12)) ||
                        (heads_per_kv > 3 && lengths.tokens > 2)) {
                        continue;
                    }
                    const AttentionCase c = any_options(dim, heads_per_kv, lengths, random);
                    visit(c, AttentionInputs(c, random));
                }
            }
        }
    }
}

}  // namespace resq::tests
