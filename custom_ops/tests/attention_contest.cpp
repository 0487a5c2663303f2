// MixedPrecisionAttention: new records and queries, attention whole and in parts.
#include <algorithm>

#include "attention_cases.hpp"
#include "contest.hpp"

namespace resq::tests {
namespace {

// One case with one instruction set.
struct Run {
    const AttentionCase& c;
    const AttentionInputs& in;
    Contestant& contestant;
    const std::string& name;
    const Kernels& kernels;
    const Attention& a;
    std::vector<std::uint8_t> keys, values;
    std::vector<float> queries, partial;
    AttentionCall call;

    Run(const AttentionCase& of, const AttentionInputs& inputs, Contestant& who,
        const std::string& called)
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

}  // namespace

void compare_attentions(Contest& contest, bool quick) {
    each_attention({quick}, [&contest](const AttentionCase& c, const AttentionInputs& inputs) {
        contest.hold(c.name(), [&](Contestant& contestant, const std::string& name) {
            return Run(c, inputs, contestant, name)();
        });
    });
}

}  // namespace resq::tests
