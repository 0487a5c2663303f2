// MixedPrecisionAttention: new records and queries, attention whole and in parts.
#include <algorithm>

#include "contest.hpp"

namespace resq::tests {
namespace {

enum class Mask { kAll, kHoles, kRightPadding, kNothing };

struct Case {
    std::int64_t batch, kv_heads, heads_per_kv, head_dim, tokens, total;
    std::int64_t high_rank, rotary_dim, window, capacity;
    int low_bits;
    Mask mask;
    Float type;
    bool projects, normalises, positions, caps;

    std::string name() const {
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
};

// Everything a case needs, in memory of the exact size.
struct Inputs {
    Attention attention;
    std::vector<float> cos, sin, projection, q_norm, k_norm;
    Values qkv;
    std::vector<std::int64_t> mask, positions;
    std::vector<std::uint8_t> keys, values;  // before the call

    Inputs(const Case& c, Random& random);

  private:
    void fill_parameters(const Case& c, Random& random);
    void fill_mask(const Case& c, Random& random);
    std::vector<std::uint8_t> cache(const Case& c, Random& random) const;
};

Inputs::Inputs(const Case& c, Random& random) {
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

void Inputs::fill_parameters(const Case& c, Random& random) {
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

void Inputs::fill_mask(const Case& c, Random& random) {
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
std::vector<std::uint8_t> Inputs::cache(const Case& c, Random& random) const {
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

// One case with one instruction set.
struct Run {
    const Case& c;
    const Inputs& in;
    Contestant& contestant;
    const std::string& name;
    const Kernels& kernels;
    const Attention& a;
    std::vector<std::uint8_t> keys, values;
    std::vector<float> queries, partial;
    AttentionCall call;

    Run(const Case& of, const Inputs& inputs, Contestant& who, const std::string& called)
        : c(of),
          in(inputs),
          contestant(who),
          name(called),
          kernels(who.kernels),
          a(in.attention),
          keys(in.keys),
          values(in.values),
          queries(static_cast<std::size_t>(c.batch * c.tokens * a.heads * c.head_dim)) {
        call.batch = c.batch;
        call.tokens = c.tokens;
        call.total = c.total;
        call.capacity = c.capacity;
        call.rows = c.batch;
        call.cached = call.cache_rows = nullptr;
        call.qkv = in.qkv.read();
        call.mask = in.mask.data();
        call.positions = c.positions ? in.positions.data() : nullptr;
        call.keys = keys.data();
        call.values = values.data();
        call.queries = queries.data();
        partial.resize(static_cast<std::size_t>(c.batch * c.tokens * call.chunks() * a.heads *
                                                softmax_floats(a)));
        call.partial = partial.data();
    }

    // Prepares the new tokens in pieces of this size. Returns queries, then both caches.
    Bits prepare(std::int64_t piece) {
        keys = in.keys;
        values = in.values;
        const std::int64_t tokens = c.batch * c.tokens;
        const Scratch scratch(kernels.prepare_scratch_bytes(a));
        for (std::int64_t token = 0; token < tokens; token += piece) {
            kernels.prepare_tokens(a, call, token, std::min(token + piece, tokens), scratch);
        }
        Bits all = bits_of(queries);
        for (const Bits& cache : {bits_of(keys), bits_of(values)}) {
            all.insert(all.end(), cache.begin(), cache.end());
        }
        return all;
    }

    // Calls `visit` with the blocks of this many tokens; chunks are not set.
    template <typename Visit>
    void each_block(std::int64_t tokens, const Visit& visit) const {
        for (std::int64_t head = 0; head < c.batch * c.kv_heads; ++head) {
            for (std::int64_t first = 0; first < c.tokens; first += tokens) {
                AttentionBlock block{};
                block.sequence = head / c.kv_heads;
                block.kv_head = head % c.kv_heads;
                block.first_token = first;
                block.tokens = std::min(tokens, c.tokens - first);
                visit(block);
            }
        }
    }

    Bits attend(std::int64_t tokens) {
        Values y(c.type, c.batch * c.tokens * a.heads * c.head_dim);
        call.y = y.write();
        const Scratch scratch(kernels.attend_scratch_bytes(a));
        each_block(tokens, [&](AttentionBlock block) {
            const std::int64_t first_slot = c.total - c.tokens + block.first_token;
            const std::int64_t begin = c.window > 0 ? first_slot - c.window + 1 : 0;
            block.first_chunk = std::max(begin, INT64_C(0)) / kChunk;
            block.last_chunk = (first_slot + block.tokens - 1) / kChunk + 1;
            kernels.attend(a, call, block, scratch);
        });
        return bits_of(y);
    }

    Bits attend_in_parts(std::int64_t tokens) {
        Values y(c.type, c.batch * c.tokens * a.heads * c.head_dim);
        call.y = y.write();
        const Scratch scratch(kernels.attend_scratch_bytes(a));
        each_block(tokens, [&](AttentionBlock block) {
            block.is_partial = true;
            for (std::int64_t chunk = 0; chunk < call.chunks(); ++chunk) {
                block.first_chunk = chunk;
                block.last_chunk = chunk + 1;
                kernels.attend(a, call, block, scratch);
            }
        });
        each_block(1, [&](const AttentionBlock& block) {
            kernels.combine(a, call, block.sequence, block.kv_head, block.first_token);
        });
        return bits_of(y);
    }

    std::uint32_t count_nans(const Bits& y) const {
        const std::uint32_t nan = c.type == Float::kSingle ? kNan : kNanHalf;
        return static_cast<std::uint32_t>(std::count(y.begin(), y.end(), nan));
    }

    void expect_same(const char* what, const Bits& found, const Bits& wanted) const {
        contestant.expect_same(name + ": " + what, found, wanted);
    }

    Results operator()() {
        const Bits cut = prepare(3), prepared = prepare(c.batch * c.tokens);
        expect_same("tokens prepared in pieces", cut, prepared);
        const Bits y = attend(kQueryTokens);
        expect_same("number of NaNs", {count_nans(y)}, {0});
        expect_same("token by token", attend(1), y);
        expect_same("tokens in pieces", attend(5), y);
        expect_same("in parts", attend_in_parts(kQueryTokens), y);
        expect_same("in parts, token by token", attend_in_parts(1), y);
        return {{"queries and caches", prepared}, {"y", y}};
    }
};

struct Lengths {
    std::int64_t tokens, total;
};
const Lengths kLengths[] = {{1, 1},   {1, 63},  {1, 64},  {1, 65},  {1, 127}, {1, 129},
                            {1, 200}, {2, 128}, {3, 65},  {5, 127}, {8, 129}, {9, 9},
                            {33, 33}, {64, 64}, {65, 65}, {40, 200}};

Case any_options(std::int64_t dim, std::int64_t heads_per_kv, const Lengths& lengths,
                 Random& random) {
    Case c{};
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

void compare_attentions(Contest& contest, bool quick) {
    Random random(4);
    for (const std::int64_t dim : {8, 16, 64, 80, 128, 256}) {
        // Few rows take another path than many (kDirectRows): 1 to 8 rows are few, 9 are many.
        for (const std::int64_t heads_per_kv : {1, 2, 3, 7, 8}) {
            for (const Lengths& lengths : kLengths) {
                for (int time = 0; time < 3; ++time) {
                    if ((quick && !random.one_in(12)) || (heads_per_kv > 3 && lengths.tokens > 2)) {
                        continue;
                    }
                    const Case c = any_options(dim, heads_per_kv, lengths, random);
                    const Inputs inputs(c, random);
                    contest.hold(c.name(), [&](Contestant& contestant, const std::string& name) {
                        return Run(c, inputs, contestant, name)();
                    });
                }
            }
        }
    }
}

}  // namespace resq::tests
