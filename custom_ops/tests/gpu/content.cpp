// Random numbers to GPU memory.
#include "content.hpp"

#include <algorithm>

#include "values.hpp"

namespace resq::tests::gpu {
namespace {

// Bytes, and numbers, that are drawn; more are copies of them.
constexpr std::int64_t kBytes = 1 << 22, kHalves = 1 << 20, kRecords = 1 << 10;

std::vector<std::uint8_t> random_bytes(std::int64_t count, Random& random) {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
    std::generate(bytes.begin(), bytes.end(),
                  [&random] { return static_cast<std::uint8_t>(random.bits() >> 32); });
    return bytes;
}

}  // namespace

Content::Content(Stream& stream) : stream_(stream), memory_(stream) {
    Random random(1);
    bytes_ = memory_.upload(random_bytes(kBytes, random));
    halves_ = memory_.upload(Values::random(Float::kHalf, kHalves, random).halves);
    stream.wait();  // the vectors end here
}

std::uint8_t* Content::bytes(Memory& memory, std::size_t count) {
    auto* all = memory.make<std::uint8_t>(count);
    repeat(all, count, bytes_, kBytes);
    return all;
}

void* Content::halves(Memory& memory, std::size_t count) {
    auto* all = memory.make<std::uint16_t>(count);
    repeat(all, 2 * count, halves_, 2 * kHalves);
    return all;
}

std::uint8_t* Content::records(Memory& memory, const Record& layout, std::size_t count) {
    Random random(2);
    std::vector<std::uint8_t> some = random_bytes(kRecords * layout.bytes, random);
    for (std::int64_t i = 0; i < kRecords; ++i) {
        for (const RecordPart& part : layout.parts) {
            if (part.rank > 0) {
                some[static_cast<std::size_t>(i * layout.bytes + part.scale + 1)] = 0x3D;
            }
        }
    }
    const auto bytes = count * static_cast<std::size_t>(layout.bytes);
    auto* all = memory.make<std::uint8_t>(bytes);
    repeat(all, bytes, memory.upload(some), some.size());
    stream_.wait();
    return all;
}

float* Content::floats(Memory& memory, std::size_t count, float value) const {
    float* all = memory.upload(std::vector<float>(count, value));
    stream_.wait();
    return all;
}

void Content::repeat(void* to, std::size_t bytes, const void* from, std::size_t period) const {
    for (std::size_t begin = 0; begin < bytes; begin += period) {
        stream_.copy(static_cast<std::uint8_t*>(to) + begin, from, std::min(period, bytes - begin));
    }
}

}  // namespace resq::tests::gpu
