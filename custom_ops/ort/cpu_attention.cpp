// MixedPrecisionAttention on the CPU: copies the cache and splits the work into tasks.
#include "cpu_attention.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace resq::ort {
namespace {

// New tokens per task.
constexpr std::int64_t kTokensOfTask = 8;

// With fewer tokens and fewer tasks than this, the slots are divided among the threads, too, and
// partial results are merged.
constexpr std::int64_t kFewTokens = 9, kEnoughTasks = 16;

// Chunks of a task then, for which queries are rounded once; bytes of the cache for each thread
// that copies it.
constexpr std::int64_t kChunksOfTask = 4, kBytesOfCopy = 256 * 1024;

// One call: its kernels, its inputs, and its context, which has the threads.
struct Work {
    const Kernels& kernels;
    const NodeContext& context;
    const Attention& attention;
    AttentionCall call;

    void check_rows() const;
    void check_positions() const;
    void continue_cache(const Tensor& past, std::uint8_t* present) const;
    void prepare_tokens() const;
    void attend() const;
    void attend_in_parts();
};

// A ragged batch writes to slots of the cache that its inputs name: each has to exist, and to have
// one writer. A row may be given several times: then the tokens of one text come in parts, which
// see each other, because all tokens are written before any is attended to.
void Work::check_rows() const {
    if (call.cached == nullptr) {
        return;
    }
    const std::int64_t known = call.positions != nullptr ? INT64_MAX : attention.positions;
    const std::int64_t longest = std::min(call.total, known) - call.tokens;
    for (std::int64_t i = 0; i < call.batch; ++i) {
        if (call.cached[i] < 0 || call.cached[i] > longest) {
            refuse("a number of cached", call.cached[i],
                   "0 to " + std::to_string(longest) + ": with " + std::to_string(call.tokens) +
                       " new tokens, at most the columns of attention_mask and the rows of "
                       "cos_cache");
        }
        if (call.cache_rows[i] < 0 || call.cache_rows[i] >= call.rows) {
            refuse("a row of cache_rows", call.cache_rows[i],
                   "0 to " + std::to_string(call.rows - 1) + ", the rows of past_key");
        }
    }
    std::vector<std::pair<std::int64_t, std::int64_t>> slots;  // the row and first slot of each
    for (std::int64_t i = 0; i < call.batch; ++i) {
        slots.emplace_back(call.cache_rows[i], call.cached[i]);
    }
    std::sort(slots.begin(), slots.end());
    const auto twice = std::adjacent_find(slots.begin(), slots.end(), [&](auto a, auto b) {
        return a.first == b.first && a.second + call.tokens > b.second;
    });
    if (twice != slots.end()) {
        refuse("a row of cache_rows with slots that are given twice", twice->first,
               "each slot once");
    }
}

void Work::check_positions() const {
    for (std::int64_t i = 0; call.positions != nullptr && i < call.batch * call.tokens; ++i) {
        if (call.positions[i] < 0 || call.positions[i] >= attention.positions) {
            refuse("a position of position_ids", call.positions[i],
                   "0 to " + std::to_string(attention.positions - 1) + ", the rows of cos_cache");
        }
    }
}

// Copies the past cache into one of max(P, total) slots. A buffer that is bound to both needs no
// copy.
void Work::continue_cache(const Tensor& past, std::uint8_t* present) const {
    if (present == past.data) {
        return;
    }
    const std::int64_t old_bytes = past.dims[2] * attention.record.bytes;
    const std::int64_t new_bytes = call.capacity * attention.record.bytes;
    const std::int64_t heads = call.rows * attention.kv_heads;
    context.parallel_for(heads, heads * old_bytes / kBytesOfCopy, [&](std::int64_t head) {
        std::memcpy(present + head * new_bytes,
                    static_cast<const std::uint8_t*>(past.data) + head * old_bytes,
                    static_cast<std::size_t>(old_bytes));
        std::memset(present + head * new_bytes + old_bytes, 0,
                    static_cast<std::size_t>(new_bytes - old_bytes));
    });
}

void Work::prepare_tokens() const {
    const std::int64_t tokens = call.batch * call.tokens;
    const std::int64_t tasks = (tokens + kTokensOfTask - 1) / kTokensOfTask;
    context.parallel_for(tasks, tasks, [&](std::int64_t task) {
        void* memory = scratch(ScratchUse::kWork, kernels.prepare_scratch_bytes(attention));
        kernels.prepare_tokens(attention, call, task * kTokensOfTask,
                               std::min(tokens, (task + 1) * kTokensOfTask), memory);
    });
}

// A task is some tokens of one sequence and kv head, with all chunks they see.
void Work::attend() const {
    const std::int64_t pieces = (call.tokens + kQueryTokens - 1) / kQueryTokens;
    const std::int64_t tasks = call.batch * attention.kv_heads * pieces;
    context.parallel_for(tasks, tasks, [&](std::int64_t task) {
        // The last tokens see the most slots, so they come first: no long task starts last.
        const std::int64_t piece = pieces - 1 - task / (call.batch * attention.kv_heads);
        const std::int64_t head = task % (call.batch * attention.kv_heads);
        AttentionBlock block;
        block.sequence = head / attention.kv_heads;
        block.kv_head = head % attention.kv_heads;
        block.first_token = piece * kQueryTokens;
        block.tokens = std::min(kQueryTokens, call.tokens - block.first_token);
        const Chunks seen = seen_chunks(attention, call.old(block.sequence), block.first_token,
                                        block.first_token + block.tokens - 1);
        block.first_chunk = seen.first;
        block.last_chunk = seen.last;
        block.is_partial = false;
        void* memory = scratch(ScratchUse::kWork, kernels.attend_scratch_bytes(attention));
        kernels.attend(attention, call, block, memory);
    });
}

// A task is some chunks of one sequence and kv head, for all of the few tokens, as far as they see
// them.
void Work::attend_in_parts() {
    const std::int64_t chunks = call.chunks(), heads = call.batch * attention.kv_heads;
    const auto floats = static_cast<std::size_t>(
        heads * call.tokens * chunks * attention.heads_per_kv() * softmax_floats(attention));
    call.partial = static_cast<float*>(scratch(ScratchUse::kPartial, floats * sizeof(float)));
    const std::int64_t pieces = (chunks + kChunksOfTask - 1) / kChunksOfTask;
    const std::int64_t batches = heads * chunks / kChunksOfTask;
    context.parallel_for(heads * pieces, batches, [&](std::int64_t task) {
        AttentionBlock block;
        block.sequence = task / pieces / attention.kv_heads;
        block.kv_head = task / pieces % attention.kv_heads;
        block.first_token = 0;
        block.tokens = call.tokens;
        block.is_partial = true;
        const Chunks seen = seen_chunks(attention, call.old(block.sequence), 0, call.tokens - 1);
        const std::int64_t first = task % pieces * kChunksOfTask;
        block.first_chunk = std::max(first, seen.first);
        block.last_chunk = std::min(first + kChunksOfTask, seen.last);
        if (block.first_chunk >= block.last_chunk) {
            return;
        }
        void* memory = scratch(ScratchUse::kWork, kernels.attend_scratch_bytes(attention));
        kernels.attend(attention, call, block, memory);
    });
    for (std::int64_t task = 0; task < heads * call.tokens; ++task) {
        const std::int64_t head = task / call.tokens;
        kernels.combine(attention, call, head / attention.kv_heads, head % attention.kv_heads,
                        task % call.tokens);
    }
}

}  // namespace

CpuAttentionKernel::CpuAttentionKernel(const NodeInfo& node) : kernels_(kernels()), node_(node) {}

void CpuAttentionKernel::compute(const NodeContext& context) const {
    const AttentionTensors tensors(node_, context);
    Work work{kernels_, context, tensors.attention, tensors.call};
    const Attention& a = work.attention;
    AttentionCall& call = work.call;
    work.check_rows();
    work.check_positions();
    work.continue_cache(tensors.past_key, call.keys);
    work.continue_cache(tensors.past_value, call.values);
    if (call.batch * call.tokens == 0) {
        return;
    }
    const auto queries = static_cast<std::size_t>(call.batch * call.tokens * a.heads * a.head_dim);
    call.queries = static_cast<float*>(scratch(ScratchUse::kQueries, queries * sizeof(float)));
    work.prepare_tokens();
    if (call.tokens < kFewTokens && call.batch * a.kv_heads < kEnoughTasks) {
        work.attend_in_parts();
    } else {
        work.attend();
    }
}

}  // namespace resq::ort
