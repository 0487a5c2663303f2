// MixedPrecisionAttention in ONNX Runtime: reads the node, keeps the cache, cuts the work.
#include "attention_op.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace resq::ort {
namespace {

constexpr std::size_t kQkv = 0, kPastKey = 1, kPastValue = 2, kMask = 3, kPositions = 4, kCos = 5,
                      kSin = 6, kProjection = 7, kQNorm = 8, kKNorm = 9;

// New tokens prepared in one task.
constexpr std::int64_t kTokensOfTask = 8;

// With fewer tokens than this, and fewer tasks than the other number, the slots are cut for the
// threads too, and partial results put together.
constexpr std::int64_t kFewTokens = 9, kEnoughTasks = 16;

// Chunks that a thread takes at a time then, some ten microseconds of work; and bytes of the cache
// that are worth a batch of their own when it is copied.
constexpr std::int64_t kChunksOfBatch = 4, kBytesOfCopy = 256 * 1024;

const float* read_gain(const NodeInfo& node, std::size_t index, const char* name,
                       std::int64_t* head_dim) {
    const Tensor gain = node.constant(index, name);
    if (!gain) {
        return nullptr;
    }
    check_shape(name, gain, {*head_dim});
    *head_dim = gain.dims[0];
    return static_cast<const float*>(gain.data);
}

// One call: its node's attention, what the inputs say, and the way to the threads.
struct Call {
    const Kernels& kernels;
    const NodeContext& context;
    Attention attention;
    AttentionCall call;

    void read_qkv(std::int64_t high_rank, int low_bits, std::int64_t fixed_dim);
    Tensor read_past(std::size_t index, const char* name) const;
    void read_mask();
    void read_positions();
    std::uint8_t* continue_cache(std::size_t output, const Tensor& past) const;
    void prepare_tokens() const;
    void attend() const;
    void attend_in_parts();
};

// QKV (B, S, (H + 2G) · d) tells the size of a head, and with it the record.
void Call::read_qkv(std::int64_t high_rank, int low_bits, std::int64_t fixed_dim) {
    const Tensor qkv = context.input(kQkv);
    const std::int64_t heads = attention.heads + 2 * attention.kv_heads;
    const std::int64_t expected = fixed_dim < 0 ? -1 : fixed_dim * heads;
    check_shape("QKV", qkv, {-1, -1, expected});
    if (qkv.dims[2] % heads != 0 || qkv.dims[2] == 0) {
        refuse("columns of QKV", qkv.dims[2],
               "a multiple of num_heads + 2 kv_num_heads, " + std::to_string(heads));
    }
    const std::int64_t dim = qkv.dims[2] / heads;
    if (attention.rotary_dim > dim) {
        refuse("rotary_dim", attention.rotary_dim, "at most the head size " + std::to_string(dim));
    }
    if (high_rank > dim || (low_bits == 4 && (dim - high_rank) % 2 != 0)) {
        refuse("high_rank", high_rank,
               "at most the head size " + std::to_string(dim) + ", and an even rest");
    }
    attention.head_dim = dim;
    attention.record = Record::of(dim, high_rank, low_bits);
    call.qkv = const_floats(qkv);
    call.batch = qkv.dims[0];
    call.tokens = qkv.dims[1];
}

Tensor Call::read_past(std::size_t index, const char* name) const {
    const Tensor past = context.input(index);
    check_shape(name, past, {call.batch, attention.kv_heads, -1, attention.record.bytes});
    return past;
}

// attention_mask (B, total): the last S of all tokens are new.
void Call::read_mask() {
    const Tensor mask = context.input(kMask);
    check_shape("attention_mask", mask, {call.batch, -1});
    call.total = mask.dims[1];
    call.mask = static_cast<const std::int64_t*>(mask.data);
    if (call.total < call.tokens) {
        refuse("columns of attention_mask", call.total,
               "at least the " + std::to_string(call.tokens) + " new tokens");
    }
}

void Call::read_positions() {
    const Tensor ids = context.input(kPositions);
    call.positions = nullptr;
    if (!ids) {
        if (call.total > attention.positions) {
            refuse("the number of tokens", call.total,
                   "at most the " + std::to_string(attention.positions) + " rows of cos_cache");
        }
        return;
    }
    check_shape("position_ids", ids, {call.batch, call.tokens});
    call.positions = static_cast<const std::int64_t*>(ids.data);
    for (std::int64_t i = 0; i < call.batch * call.tokens; ++i) {
        if (call.positions[i] < 0 || call.positions[i] >= attention.positions) {
            refuse("a position of position_ids", call.positions[i],
                   "0 to " + std::to_string(attention.positions - 1) + " by the rows of cos_cache");
        }
    }
}

// A cache of max(P, total) slots that holds what the past one does. A buffer that is bound as past
// and as present is already that.
std::uint8_t* Call::continue_cache(std::size_t output, const Tensor& past) const {
    const std::int64_t dims[4] = {call.batch, attention.kv_heads, call.capacity,
                                  attention.record.bytes};
    auto* present = static_cast<std::uint8_t*>(context.output(output, dims, 4));
    if (present == past.data) {
        return present;
    }
    const std::int64_t old_bytes = past.dims[2] * attention.record.bytes;
    const std::int64_t new_bytes = call.capacity * attention.record.bytes;
    const std::int64_t heads = call.batch * attention.kv_heads;
    context.parallel_for(heads, heads * old_bytes / kBytesOfCopy, [&](std::int64_t head) {
        std::memcpy(present + head * new_bytes,
                    static_cast<const std::uint8_t*>(past.data) + head * old_bytes,
                    static_cast<std::size_t>(old_bytes));
        std::memset(present + head * new_bytes + old_bytes, 0,
                    static_cast<std::size_t>(new_bytes - old_bytes));
    });
    return present;
}

void Call::prepare_tokens() const {
    const std::int64_t tokens = call.batch * call.tokens;
    const std::int64_t tasks = (tokens + kTokensOfTask - 1) / kTokensOfTask;
    context.parallel_for(tasks, tasks, [&](std::int64_t task) {
        void* work = scratch(Use::kWork, kernels.prepare_scratch_bytes(attention));
        kernels.prepare_tokens(attention, call, task * kTokensOfTask,
                               std::min(tokens, (task + 1) * kTokensOfTask), work);
    });
}

// A task is some tokens of one sequence and kv head, and all chunks they see.
void Call::attend() const {
    const std::int64_t pieces = (call.tokens + kQueryTokens - 1) / kQueryTokens;
    const std::int64_t tasks = call.batch * attention.kv_heads * pieces;
    context.parallel_for(tasks, tasks, [&](std::int64_t task) {
        // The last tokens see the most, so they come first: no long task is left for the end.
        const std::int64_t piece = pieces - 1 - task / (call.batch * attention.kv_heads);
        const std::int64_t head = task % (call.batch * attention.kv_heads);
        AttentionBlock block;
        block.sequence = head / attention.kv_heads;
        block.kv_head = head % attention.kv_heads;
        block.first_token = piece * kQueryTokens;
        block.tokens = std::min(kQueryTokens, call.tokens - block.first_token);
        const std::int64_t first_slot = call.total - call.tokens + block.first_token;
        block.last_chunk = (first_slot + block.tokens - 1) / kChunk + 1;
        block.first_chunk =
            attention.window > 0
                ? std::max<std::int64_t>(0, first_slot - attention.window + 1) / kChunk
                : 0;
        block.is_partial = false;
        void* work = scratch(Use::kWork, kernels.attend_scratch_bytes(attention));
        kernels.attend(attention, call, block, work);
    });
}

// A task is one chunk of one sequence and kv head, for all of the few tokens.
void Call::attend_in_parts() {
    const std::int64_t chunks = call.chunks(), heads = call.batch * attention.kv_heads;
    const auto floats = static_cast<std::size_t>(
        heads * call.tokens * chunks * attention.heads_per_kv() * softmax_floats(attention));
    call.partial = static_cast<float*>(scratch(Use::kPartial, floats * sizeof(float)));
    context.parallel_for(heads * chunks, heads * chunks / kChunksOfBatch, [&](std::int64_t task) {
        AttentionBlock block;
        block.sequence = task / chunks / attention.kv_heads;
        block.kv_head = task / chunks % attention.kv_heads;
        block.first_token = 0;
        block.tokens = call.tokens;
        block.first_chunk = task % chunks;
        block.last_chunk = block.first_chunk + 1;
        block.is_partial = true;
        void* work = scratch(Use::kWork, kernels.attend_scratch_bytes(attention));
        kernels.attend(attention, call, block, work);
    });
    for (std::int64_t task = 0; task < heads * call.tokens; ++task) {
        const std::int64_t head = task / call.tokens;
        kernels.combine(attention, call, head / attention.kv_heads, head % attention.kv_heads,
                        task % call.tokens);
    }
}

}  // namespace

AttentionKernel::AttentionKernel(const NodeInfo& node) : kernels_(kernels()) {
    Attention& a = attention_;
    a.heads = node.integer("num_heads");
    a.kv_heads = node.integer("kv_num_heads");
    if (a.heads < 1 || a.kv_heads < 1 || a.heads % a.kv_heads != 0) {
        refuse("num_heads", a.heads, "a multiple of kv_num_heads " + std::to_string(a.kv_heads));
    }
    a.rotary_dim = node.integer("rotary_dim");
    if (a.rotary_dim < 2 || a.rotary_dim % 2 != 0) {
        refuse("rotary_dim", a.rotary_dim, "an even number above 0");
    }
    a.window = node.integer("local_window", -1);
    if (a.window == 0 || a.window < -1) {
        refuse("local_window", a.window, "a number of slots, or -1 for all");
    }
    high_rank_ = node.integer("high_rank");
    if (high_rank_ < 0) {
        refuse("high_rank", high_rank_, "0 or more");
    }
    const std::int64_t low_bits = node.integer("low_bits", 4);
    if (low_bits != 4 && low_bits != 8) {
        refuse("low_bits", low_bits, "4 or 8");
    }
    low_bits_ = static_cast<int>(low_bits);
    const Tensor cos = node.required_constant(kCos, "cos_cache");
    const Tensor sin = node.required_constant(kSin, "sin_cache");
    check_shape("cos_cache", cos, {-1, a.rotary_dim / 2});
    check_shape("sin_cache", sin, {cos.dims[0], a.rotary_dim / 2});
    a.positions = cos.dims[0];
    a.cos = static_cast<const float*>(cos.data);
    a.sin = static_cast<const float*>(sin.data);
    fixed_dim_ = -1;
    const Tensor projection = node.constant(kProjection, "key_projection");
    if (projection) {
        check_shape("key_projection", projection, {a.kv_heads, -1, -1});
        check_shape("key_projection", projection,
                    {a.kv_heads, projection.dims[1], projection.dims[1]});
        fixed_dim_ = projection.dims[1];
        a.projection = static_cast<const float*>(projection.data);
    }
    a.q_norm = read_gain(node, kQNorm, "q_norm", &fixed_dim_);
    a.k_norm = read_gain(node, kKNorm, "k_norm", &fixed_dim_);
    a.epsilon = a.q_norm != nullptr || a.k_norm != nullptr ? node.real("norm_epsilon") : 0.0f;
    a.scale = node.real("scale", std::nanf(""));
    a.softcap = node.real("softcap", 0.0f);
    if (!(a.softcap >= 0.0f) || std::isinf(a.softcap)) {
        refuse("softcap", std::to_string(a.softcap), "a number above 0, or 0 for none");
    }
}

void AttentionKernel::compute(const NodeContext& context) const {
    Call one{kernels_, context, attention_, {}};
    one.read_qkv(high_rank_, low_bits_, fixed_dim_);
    Attention& a = one.attention;
    if (std::isnan(a.scale)) {
        a.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
    }
    one.read_mask();
    AttentionCall& call = one.call;
    const Tensor past_key = one.read_past(kPastKey, "past_key");
    const Tensor past_value = one.read_past(kPastValue, "past_value");
    check_shape("past_value", past_value,
                {call.batch, a.kv_heads, past_key.dims[2], a.record.bytes});
    if (past_key.dims[2] < call.total - call.tokens) {
        refuse("slots of past_key", past_key.dims[2],
               "at least the " + std::to_string(call.total - call.tokens) +
                   " old tokens of attention_mask");
    }
    call.capacity = std::max(past_key.dims[2], call.total);
    one.read_positions();
    const std::int64_t dims[3] = {call.batch, call.tokens, a.heads * a.head_dim};
    call.y = {context.output(0, dims, 3), call.qkv.type};
    call.keys = one.continue_cache(1, past_key);
    call.values = one.continue_cache(2, past_value);
    if (call.batch * call.tokens == 0) {
        return;
    }
    const auto queries = static_cast<std::size_t>(call.batch * call.tokens * a.heads * a.head_dim);
    call.queries = static_cast<float*>(scratch(Use::kQueries, queries * sizeof(float)));
    one.prepare_tokens();
    if (call.tokens < kFewTokens && call.batch * a.kv_heads < kEnoughTasks) {
        one.attend_in_parts();
    } else {
        one.attend();
    }
}

}  // namespace resq::ort
