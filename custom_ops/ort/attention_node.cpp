// Reads a MixedPrecisionAttention node and refuses an invalid one.
#include "attention_node.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace resq::ort {
namespace {

constexpr std::size_t kQkv = 0, kPastKey = 1, kPastValue = 2, kMask = 3, kPositions = 4, kCos = 5,
                      kSin = 6, kProjection = 7, kQNorm = 8, kKNorm = 9, kCached = 10,
                      kCacheRows = 11;

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

}  // namespace

AttentionNode::AttentionNode(const NodeInfo& node) {
    Attention& a = attention;
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
    high_rank = node.integer("high_rank");
    if (high_rank < 0) {
        refuse("high_rank", high_rank, "0 or more");
    }
    low_bits = node.bits("low_bits", 4);
    const Tensor cos = node.required_constant(kCos, "cos_cache");
    const Tensor sin = node.required_constant(kSin, "sin_cache");
    check_shape("cos_cache", cos, {-1, a.rotary_dim / 2});
    check_shape("sin_cache", sin, {cos.dims[0], a.rotary_dim / 2});
    a.positions = cos.dims[0];
    a.cos = static_cast<const float*>(cos.data);
    a.sin = static_cast<const float*>(sin.data);
    fixed_dim = -1;
    const Tensor projection = node.constant(kProjection, "key_projection");
    if (projection) {
        check_shape("key_projection", projection, {a.kv_heads, -1, -1});
        check_shape("key_projection", projection,
                    {a.kv_heads, projection.dims[1], projection.dims[1]});
        fixed_dim = projection.dims[1];
        a.projection = static_cast<const float*>(projection.data);
    }
    a.q_norm = read_gain(node, kQNorm, "q_norm", &fixed_dim);
    a.k_norm = read_gain(node, kKNorm, "k_norm", &fixed_dim);
    a.epsilon = a.q_norm != nullptr || a.k_norm != nullptr ? node.real("norm_epsilon") : 0.0f;
    a.scale = node.real("scale", std::nanf(""));
    a.softcap = node.real("softcap", 0.0f);
    if (!(a.softcap >= 0.0f) || std::isinf(a.softcap)) {
        refuse("softcap", std::to_string(a.softcap), "a number above 0, or 0 for none");
    }
    has_rows = node.has_input(kCached);
    if (has_rows != node.has_input(kCacheRows)) {
        throw Refusal{"only one of cached and cache_rows is given, expected both or neither"};
    }
}

AttentionTensors::AttentionTensors(const AttentionNode& node, const NodeContext& context)
    : attention(node.attention) {
    read_qkv(node, context);
    if (std::isnan(attention.scale)) {
        attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
    }
    read_mask(context);
    if (node.has_rows) {
        read_rows(context);
    }
    read_past(node, context);
    read_positions(context);
    allocate(context);
}

// QKV (B, S, (H + 2G) · d) determines the head size, and so the record.
void AttentionTensors::read_qkv(const AttentionNode& node, const NodeContext& context) {
    const Tensor qkv = context.input(kQkv);
    const std::int64_t heads = attention.heads + 2 * attention.kv_heads;
    const std::int64_t expected = node.fixed_dim < 0 ? -1 : node.fixed_dim * heads;
    check_shape("QKV", qkv, {-1, -1, expected});
    if (qkv.dims[2] % heads != 0 || qkv.dims[2] == 0) {
        refuse("columns of QKV", qkv.dims[2],
               "a multiple of num_heads + 2 kv_num_heads, " + std::to_string(heads));
    }
    const std::int64_t dim = qkv.dims[2] / heads;
    if (attention.rotary_dim > dim) {
        refuse("rotary_dim", attention.rotary_dim, "at most the head size " + std::to_string(dim));
    }
    if (node.high_rank > dim || (node.low_bits == 4 && (dim - node.high_rank) % 2 != 0)) {
        refuse(
            "high_rank", node.high_rank,
            "at most the head size " + std::to_string(dim) + ", with an even remainder for 4 bits");
    }
    attention.head_dim = dim;
    attention.record = Record::of(dim, node.high_rank, node.low_bits);
    call.qkv = const_floats(qkv);
    call.batch = qkv.dims[0];
    call.tokens = qkv.dims[1];
}

// attention_mask (B, total): the last S tokens are new.
void AttentionTensors::read_mask(const NodeContext& context) {
    const Tensor mask = context.input(kMask);
    check_shape("attention_mask", mask, {call.batch, -1});
    call.total = mask.dims[1];
    call.mask = static_cast<const std::int64_t*>(mask.data);
    if (call.total < call.tokens) {
        refuse("columns of attention_mask", call.total,
               "at least the " + std::to_string(call.tokens) + " new tokens");
    }
}

void AttentionTensors::read_past(const AttentionNode& node, const NodeContext& context) {
    past_key = context.input(kPastKey);
    past_value = context.input(kPastValue);
    const std::int64_t bytes = attention.record.bytes;
    const std::int64_t rows = node.has_rows ? -1 : call.batch;
    check_shape("past_key", past_key, {rows, attention.kv_heads, -1, bytes});
    check_shape("past_value", past_value,
                {past_key.dims[0], attention.kv_heads, past_key.dims[2], bytes});
    call.rows = past_key.dims[0];
    call.capacity = past_key.dims[2];
    if (node.has_rows && call.capacity < call.total) {  // the buffer of a ragged batch never grows
        refuse("slots of past_key", call.capacity,
               "at least the " + std::to_string(call.total) +
                   " tokens of attention_mask, because cached and cache_rows are given");
    }
    if (node.has_rows) {
        return;
    }
    if (call.capacity < call.total - call.tokens) {
        refuse("slots of past_key", call.capacity,
               "at least the " + std::to_string(call.total - call.tokens) +
                   " old tokens of attention_mask");
    }
    call.capacity = std::max(call.capacity, call.total);
}

// The lengths and rows of a ragged batch. The CPU's kernel checks their values.
void AttentionTensors::read_rows(const NodeContext& context) {
    const Tensor cached = context.input(kCached), rows = context.input(kCacheRows);
    check_shape("cached", cached, {call.batch});
    check_shape("cache_rows", rows, {call.batch});
    call.cached = static_cast<const std::int64_t*>(cached.data);
    call.cache_rows = static_cast<const std::int64_t*>(rows.data);
}

// The positions may be in GPU memory, so the kernels check their values.
void AttentionTensors::read_positions(const NodeContext& context) {
    const Tensor ids = context.input(kPositions);
    if (!ids) {
        if (call.cached == nullptr && call.total > attention.positions) {
            refuse("the number of tokens", call.total,
                   "at most the " + std::to_string(attention.positions) + " rows of cos_cache");
        }
        return;
    }
    check_shape("position_ids", ids, {call.batch, call.tokens});
    call.positions = static_cast<const std::int64_t*>(ids.data);
}

void AttentionTensors::allocate(const NodeContext& context) {
    const std::int64_t dims[3] = {call.batch, call.tokens, attention.heads * attention.head_dim};
    call.y = {context.output(0, dims, 3), call.qkv.type};
    const std::int64_t cache[4] = {call.rows, attention.kv_heads, call.capacity,
                                   attention.record.bytes};
    call.keys = static_cast<std::uint8_t*>(context.output(1, cache, 4));
    call.values = static_cast<std::uint8_t*>(context.output(2, cache, 4));
}

}  // namespace resq::ort
