// MixedPrecisionAttention: copies the cache, adds new tokens to it, and attends to it.
#include "records.cuh"

namespace resq::cuda {

void continue_cache(const Attention& a, const AttentionCall& call, const std::uint8_t* past,
                    std::int64_t past_slots, std::uint8_t* present, Queue& queue) {
    if (present == past) {  // one buffer is bound to both
        return;
    }
    const auto bytes = [&](std::int64_t slots) {
        return static_cast<std::size_t>(slots * a.record.bytes);
    };
    copy_rows(present, bytes(call.capacity), past, bytes(past_slots),
              static_cast<std::size_t>(call.batch * a.kv_heads), queue);
}

void attend_prepared(const Attention& a, const AttentionCall& call, Queue& queue) {
    can_attend_many(a, call) ? attend_many(a, call, queue) : attend_few(a, call, queue);
}

void attend(const Attention& a, const AttentionCall& call, Queue& queue) {
    prepare_tokens(a, call, queue);
    attend_prepared(a, call, queue);
}

}  // namespace resq::cuda
