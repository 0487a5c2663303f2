// MixedPrecisionAttention in two steps, each from what the GPU made of the one before: queries and
// records of the new tokens, then attention to the records.
#include <algorithm>
#include <cmath>

#include "attention_cases.hpp"
#include "compare.hpp"
#include "scalar.hpp"

namespace resq::tests::gpu {
namespace {

using Bytes = std::vector<std::uint8_t>;

// What a call writes.
struct Written {
    Floats32 queries, y;
    Bytes keys, values;
};

// A call of the case's sizes, without its tensors.
AttentionCall sizes_of(const AttentionCase& c) {
    AttentionCall call{};
    call.batch = call.rows = c.batch;
    call.tokens = c.tokens;
    call.total = c.total;
    call.capacity = c.capacity;
    return call;
}

std::size_t query_count(const AttentionCase& c) {
    return static_cast<std::size_t>(c.batch * c.tokens * c.kv_heads * c.heads_per_kv * c.head_dim);
}

// The records of old tokens alone, as in a cache that has no room.
Bytes past_of(const AttentionCase& c, const Record& record, const Bytes& cache) {
    Bytes past;
    const std::int64_t slots = c.total - c.tokens;
    for (std::int64_t head = 0; head < c.batch * c.kv_heads; ++head) {
        const auto from = cache.begin() + head * c.capacity * record.bytes;
        past.insert(past.end(), from, from + slots * record.bytes);
    }
    return past;
}

// The cache of a call: one with room is used as it is, one without is continued in a larger one.
std::uint8_t* place_cache(const AttentionCase& c, const Attention& a, const AttentionCall& call,
                          const Bytes& cache, Memory& memory) {
    if (c.capacity > c.total) {
        return memory.upload(cache);
    }
    const std::uint8_t* past = memory.upload(past_of(c, a.record, cache));
    auto* present = memory.make<std::uint8_t>(cache.size());
    memory.stream().launch([&](cuda::Queue& queue) {
        cuda::continue_cache(a, call, past, c.total - c.tokens, present, queue);
    });
    return present;
}

Written on_gpu(const AttentionCase& c, const AttentionInputs& in, const Values& qkv,
               Memory& memory) {
    Attention a = in.attention;
    a.cos = memory.upload(in.cos);
    a.sin = memory.upload(in.sin);
    a.projection = c.projects ? memory.upload(in.projection) : nullptr;
    a.q_norm = c.normalises ? memory.upload(in.q_norm) : nullptr;
    a.k_norm = c.normalises ? memory.upload(in.k_norm) : nullptr;
    AttentionCall call = sizes_of(c);
    const GpuValues from(memory, qkv),
        y(memory, qkv.type, static_cast<std::int64_t>(query_count(c)));
    call.qkv = from.read();
    call.y = y.write();
    call.mask = memory.upload(in.mask);
    call.positions = c.positions ? memory.upload(in.positions) : nullptr;
    call.keys = place_cache(c, a, call, in.keys, memory);
    call.values = place_cache(c, a, call, in.values, memory);
    call.queries = memory.make<float>(cuda::query_floats(a, call));
    call.partial = memory.make<float>(cuda::partial_floats(a, call));
    memory.stream().launch([&](cuda::Queue& queue) { cuda::attend(a, call, queue); });
    return {memory.download(call.queries, query_count(c)), y.download(),
            memory.download(call.keys, in.keys.size()),
            memory.download(call.values, in.values.size())};
}

// The coefficients of a record, and the step of each.
struct Decoded {
    Floats32 numbers, steps;

    Decoded(const Record& layout, const std::uint8_t* record) {
        for (const RecordPart& part : layout.parts) {
            const std::uint32_t bits = part.rank == 0
                                           ? 0u
                                           : std::uint32_t{record[part.scale]} << 16 |
                                                 std::uint32_t{record[part.scale + 1]} << 24;
            float scale;
            std::memcpy(&scale, &bits, sizeof scale);
            for (std::int64_t k = 0; k < part.rank; ++k) {
                const int byte = record[part.values + k * part.bits / 8];
                const int integer = part.bits == 4 ? byte >> k % 2 * 4 & 15 : byte;
                numbers.push_back(static_cast<float>(integer - record[part.zero]) * scale);
                steps.push_back(scale);
            }
        }
    }
};

// One case, with what the GPU wrote.
struct Judgement {
    const AttentionCase& c;
    const AttentionInputs& in;
    const Attention& a;
    const Written& found;
    Float type;
    Score& score;

    // Queries and records of the new tokens, from the case's inputs.
    void judge_prepared(const Values& qkv) const {
        AttentionCall call = sizes_of(c);
        Bytes keys = in.keys, values = in.values;
        Floats32 queries(query_count(c));
        const Values single = Values::of(qkv.floats(), Float::kSingle);
        call.qkv = single.read();
        call.mask = in.mask.data();
        call.positions = c.positions ? in.positions.data() : nullptr;
        call.keys = keys.data();
        call.values = values.data();
        call.queries = queries.data();
        scalar_prepare(a, call);
        judge_queries(queries);
        judge_records("keys", found.keys, keys);
        judge_records("values", found.values, values);
    }

    void judge_queries(const Floats32& wanted) const {
        const std::int64_t d = c.head_dim;
        std::vector<double> lengths(wanted.size() / static_cast<std::size_t>(d));
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            double& length = lengths[i / static_cast<std::size_t>(d)];
            length = std::hypot(length, static_cast<double>(wanted[i]));
        }
        const auto count = static_cast<std::int64_t>(wanted.size());
        score.expect_all(count, c.name() + ": queries", [&](std::int64_t i) {
            const auto at = static_cast<std::size_t>(i);
            return is_near(found.queries[at], wanted[at],
                           kQueries * lengths[static_cast<std::size_t>(i / d)], Float::kSingle);
        });
    }

    void judge_records(const char* what, const Bytes& bytes, const Bytes& wanted) const {
        const std::int64_t slots = c.batch * c.kv_heads * c.capacity;
        score.expect_all(slots, c.name() + ": " + what, [&](std::int64_t slot) {
            const std::int64_t token = slot % c.capacity, place = slot * a.record.bytes;
            if (token < c.total - c.tokens || token >= c.total) {  // not to be touched
                return std::equal(bytes.begin() + place, bytes.begin() + place + a.record.bytes,
                                  wanted.begin() + place);
            }
            const Decoded one(a.record, bytes.data() + place);
            const Decoded other(a.record, wanted.data() + place);
            for (std::size_t k = 0; k < one.numbers.size(); ++k) {
                const float allowed = static_cast<float>(kRecordSteps) * other.steps[k] +
                                      static_cast<float>(kRecordShare) * std::abs(other.numbers[k]);
                if (!(std::abs(one.numbers[k] - other.numbers[k]) <= allowed)) {
                    return false;
                }
            }
            return true;
        });
    }

    // Attention, from the GPU's own queries and records.
    void judge_attended() const {
        AttentionCall call = sizes_of(c);
        Written mine = found;
        call.mask = in.mask.data();
        call.keys = mine.keys.data();
        call.values = mine.values.data();
        call.queries = mine.queries.data();
        call.y = {mine.y.data(), Float::kSingle};
        scalar_attend(a, call);
        const std::vector<double> allowed = tolerances();
        const auto count = static_cast<std::int64_t>(mine.y.size());
        score.expect_all(count, c.name() + ": y", [&](std::int64_t i) {
            const auto at = static_cast<std::size_t>(i);
            return is_near(found.y[at], mine.y[at],
                           allowed[static_cast<std::size_t>(i / c.head_dim)], type);
        });
    }

    // Of each row of y: tokens, then heads.
    std::vector<double> tolerances() const {
        std::vector<double> all(query_count(c) / static_cast<std::size_t>(c.head_dim));
        const bool on_tensor_cores = type != Float::kSingle && c.tokens >= 16;
        for (std::int64_t head = 0; head < c.batch * c.kv_heads; ++head) {
            std::vector<Decoded> keys;
            double largest = 0.0;
            for (std::int64_t slot = 0; slot < c.total; ++slot) {
                if (in.mask[static_cast<std::size_t>(head / c.kv_heads * c.total + slot)] == 0) {
                    continue;
                }
                const std::int64_t place = (head * c.capacity + slot) * a.record.bytes;
                keys.emplace_back(a.record, found.keys.data() + place);
                for (const float value : Decoded(a.record, found.values.data() + place).numbers) {
                    largest = std::max(largest, static_cast<double>(std::abs(value)));
                }
            }
            for (std::int64_t row = 0; row < c.tokens * c.heads_per_kv; ++row) {
                const double size = score_size(head, row, keys);
                const double roundings =
                    on_tensor_cores ? kRoundings * unit_roundoff(type) * (1.0 + size) : 0.0;
                const std::int64_t token = row / c.heads_per_kv;
                const std::int64_t at = (head / c.kv_heads * c.tokens + token) * a.heads +
                                        head % c.kv_heads * c.heads_per_kv + row % c.heads_per_kv;
                all[static_cast<std::size_t>(at)] =
                    largest * (kAttention * std::max(1.0, size / kScore) + roundings);
            }
        }
        return all;
    }

    // The largest length of a score's terms, whose roundings add up like random numbers.
    double score_size(std::int64_t head, std::int64_t row, const std::vector<Decoded>& keys) const {
        const auto d = static_cast<std::size_t>(c.head_dim);
        const float* query =
            found.queries.data() + (head * c.tokens * c.heads_per_kv + row) * c.head_dim;
        double largest = 0.0;
        for (const Decoded& key : keys) {
            double squares = 0.0;
            for (std::size_t k = 0; k < d; ++k) {
                const double term =
                    static_cast<double>(query[k]) * static_cast<double>(key.numbers[k]);
                squares += term * term;
            }
            largest = std::max(largest, squares);
        }
        return std::sqrt(largest);
    }
};

}  // namespace

void compare_attentions(const Choice& choice, Score& score) {
    Stream stream;
    Sample sample(choice.every);
    each_attention(choice.cases, [&](const AttentionCase& c, const AttentionInputs& in) {
        if (!sample.takes_next()) {
            return;
        }
        Memory memory(stream);
        const Values qkv = Values::of(in.qkv.floats(), choice.type);
        const Written found = on_gpu(c, in, qkv, memory);
        const Judgement judgement{c, in, in.attention, found, choice.type, score};
        judgement.judge_prepared(qkv);
        judgement.judge_attended();
    });
}

}  // namespace resq::tests::gpu
