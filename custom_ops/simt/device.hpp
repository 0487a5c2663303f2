// What kernels use of a GPU, executed on this CPU: the twin of cuda/device_gpu.cuh.
//
// Fragment layouts are transcribed from the PTX manual (ISA 9.0: mma.m16n8k16, .m16n8k32, .m16n8k64
// and ldmatrix), with g = lane / 4 and t = lane % 4.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "resq/cuda.hpp"
#include "simt/simt.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define RESQ_UNROLL
#define threadIdx (::simt::block().current().index)
#define blockIdx (::simt::block().index)
#define blockDim (::simt::block().threads)
#define gridDim (::simt::block().grid)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline void __syncthreads() { ::simt::block().barrier(); }
inline void __syncwarp() {
    ::simt::block().together([](void* const(&)[::simt::kWarpSize]) {}, nullptr);
}

namespace resq::cuda {

using simt::kWarpSize;

// --- Numbers ------------------------------------------------------------------------------------

struct Half {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

inline float float_of(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) { return float_of(std::uint32_t{x.bits} << 16); }
inline float to_float(Half x) {
    const std::uint32_t sign = std::uint32_t{x.bits} >> 15 << 31;
    const std::uint32_t rest = x.bits & 0x7FFFu;
    if (rest >= 0x7C00u) {  // infinity or NaN
        return float_of(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
    }
    // 2^112 moves the exponent's offset from 15 to 127 and normalises subnormal numbers.
    const float size = float_of(rest << 13) * 0x1p112f;
    return float_of(sign | bits_of(size));
}

template <typename T>
inline T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline BFloat16 from_float<BFloat16>(float x) {
    const std::uint32_t bits = bits_of(x);
    if (x != x) {
        return {0x7FFF};
    }
    return {static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
}
template <>
inline Half from_float<Half>(float x) {
    const auto sign = static_cast<std::uint16_t>(bits_of(x) >> 31 << 15);
    const std::uint32_t size = bits_of(x) & 0x7FFFFFFFu;
    if (x != x) {
        return {0x7FFF};
    }
    if (size >= 0x477FF000u) {  // rounds to 65536 or more
        return {static_cast<std::uint16_t>(sign | 0x7C00u)};
    }
    if (size < 0x38800000u) {  // subnormal: a sum with 0.5 leaves multiples of 2^-24
        const std::uint32_t bits = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
        return {static_cast<std::uint16_t>(sign | bits)};
    }
    const std::uint32_t rounded = size - (112u << 23) + 0xFFFu + (size >> 13 & 1u);
    return {static_cast<std::uint16_t>(sign | rounded >> 13)};
}

// Two numbers side by side, the first in the lower half.
template <typename T>
inline unsigned pack(float first, float second) {
    return from_float<T>(first).bits | unsigned{from_float<T>(second).bits} << 16;
}

inline int dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; ++i) {
        sum += static_cast<std::int8_t>(static_cast<unsigned>(a) >> 8 * i) *
               static_cast<std::int8_t>(static_cast<unsigned>(b) >> 8 * i);
    }
    return sum;
}

// --- Within a warp ------------------------------------------------------------------------------

// Calls one function with the operands of all lanes.
template <typename Operand, void (*kWork)(Operand* const (&)[kWarpSize])>
inline void together(Operand& operand) {
    const simt::WarpWork work = [](void* const(&lanes)[kWarpSize]) {
        Operand* typed[kWarpSize];
        for (int i = 0; i < kWarpSize; ++i) {
            typed[i] = static_cast<Operand*>(lanes[i]);
        }
        kWork(typed);
    };
    simt::block().together(work, &operand);
}

template <typename T>
struct Shuffle {
    T value, result;
    int source;

    static void run(Shuffle* const (&lanes)[kWarpSize]) {
        for (Shuffle* lane : lanes) {
            lane->result = lanes[lane->source % kWarpSize]->value;
        }
    }
};

// The value of another lane.
template <typename T>
inline T shuffle(T value, int source) {
    Shuffle<T> operand{value, value, source};
    together<Shuffle<T>, Shuffle<T>::run>(operand);
    return operand.result;
}
template <typename T>
inline T shuffle_xor(T value, int mask) {
    return shuffle(value, static_cast<int>(threadIdx.x % kWarpSize) ^ mask);
}

// --- Memory -------------------------------------------------------------------------------------

// A GPU fails at an address that is not a multiple of the size of the load.
inline void check_aligned(const void* address, std::size_t bytes) {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0) {
        simt::block().stop("a misaligned address");
    }
}

template <typename T>
inline T* shared_memory() {
    return reinterpret_cast<T*>(simt::block().shared());
}

// Copies kBytes to shared memory: `valid` bytes from `source`, then zeros.
template <int kBytes>
inline void copy_async(void* target, const void* source, int valid) {
    const auto bytes = static_cast<std::size_t>(kBytes);
    check_aligned(target, bytes);
    check_aligned(source, bytes);
    simt::block().current().uncommitted.push_back(
        {target, source, bytes, static_cast<std::size_t>(valid)});
}
inline void commit_copies() {
    simt::Thread& thread = simt::block().current();
    thread.groups.push_back(std::move(thread.uncommitted));
    thread.uncommitted.clear();
}
// Waits until at most kGroups of the committed groups are pending.
template <int kGroups>
inline void wait_for_copies() {
    auto& groups = simt::block().current().groups;
    while (groups.size() > static_cast<std::size_t>(kGroups)) {
        for (const simt::PendingCopy& copy : groups.front()) {
            auto* target = static_cast<std::byte*>(copy.target);
            if (copy.valid > 0) {
                std::memcpy(target, copy.source, copy.valid);
            }
            std::memset(target + copy.valid, 0, copy.bytes - copy.valid);
        }
        groups.erase(groups.begin());
    }
}

// Loads sixteen bytes that are not needed again soon.
inline uint4 load_once(const void* source) {
    uint4 value;
    check_aligned(source, sizeof value);
    std::memcpy(&value, source, sizeof value);
    return value;
}

// --- Matrices -----------------------------------------------------------------------------------

struct MatrixLoad {
    unsigned result[4];
    const void* row;

    template <bool kTransposed>
    static void run(MatrixLoad* const (&lanes)[kWarpSize]) {
        for (int lane = 0; lane < kWarpSize; ++lane) {
            for (int matrix = 0; matrix < 4; ++matrix) {
                const int g = lane / 4, t = lane % 4;
                std::uint16_t halves[2];
                for (int i = 0; i < 2; ++i) {
                    const int row = kTransposed ? 2 * t + i : g;
                    const int column = kTransposed ? g : 2 * t + i;
                    const auto* from = static_cast<const std::byte*>(lanes[8 * matrix + row]->row);
                    std::memcpy(&halves[i], from + 2 * column, 2);
                }
                lanes[lane]->result[matrix] = halves[0] | unsigned{halves[1]} << 16;
            }
        }
    }
};

// ldmatrix.x4: four matrices of 8 rows of 16 bytes; lane i passes the address of row i % 8 of
// matrix i / 8.
inline void load_matrices(unsigned (&out)[4], const void* row) {
    check_aligned(row, 16);
    MatrixLoad operand{{}, row};
    together<MatrixLoad, MatrixLoad::run<false>>(operand);
    std::memcpy(out, operand.result, sizeof out);
}
// The same, each matrix of 8 times 8 elements of 16 bits transposed.
inline void load_matrices_transposed(unsigned (&out)[4], const void* row) {
    check_aligned(row, 16);
    MatrixLoad operand{{}, row};
    together<MatrixLoad, MatrixLoad::run<true>>(operand);
    std::memcpy(out, operand.result, sizeof out);
}

// C (16, 8) += A (16, k) · B (k, 8), distributed over the lanes of a warp. A register of A or B
// holds `kPerRegister` elements that are consecutive along k.
template <typename Sum, typename Element>
struct Mma {
    static constexpr int kPerRegister = Element::kPerRegister;
    static constexpr int kDepth = 8 * kPerRegister;
    Sum* c;
    const unsigned* a;
    unsigned b[2];

    static void run(Mma* const (&lanes)[kWarpSize]) {
        Sum a[16][kDepth], b[kDepth][8];
        for (int lane = 0; lane < kWarpSize; ++lane) {
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < kPerRegister; ++i) {
                const int k = t * kPerRegister + i;
                a[g][k] = Element::a(lanes[lane]->a[0], i);
                a[g + 8][k] = Element::a(lanes[lane]->a[1], i);
                a[g][kDepth / 2 + k] = Element::a(lanes[lane]->a[2], i);
                a[g + 8][kDepth / 2 + k] = Element::a(lanes[lane]->a[3], i);
                b[k][g] = Element::b(lanes[lane]->b[0], i);
                b[kDepth / 2 + k][g] = Element::b(lanes[lane]->b[1], i);
            }
        }
        for (int lane = 0; lane < kWarpSize; ++lane) {
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; ++i) {
                const int row = g + i / 2 * 8, column = 2 * t + i % 2;
                Sum sum = lanes[lane]->c[i];
                for (int k = 0; k < kDepth; ++k) {
                    sum += a[row][k] * b[k][column];
                }
                lanes[lane]->c[i] = sum;
            }
        }
    }
};

struct Bytes {
    static constexpr int kPerRegister = 4;
    static int a(unsigned word, int i) { return static_cast<std::int8_t>(word >> 8 * i); }
    static int b(unsigned word, int i) { return a(word, i); }
};
struct Nibbles {  // A unsigned, B signed
    static constexpr int kPerRegister = 8;
    static int a(unsigned word, int i) { return static_cast<int>(word >> 4 * i & 15u); }
    static int b(unsigned word, int i) { return (a(word, i) ^ 8) - 8; }
};
template <typename T>
struct Halves {
    static constexpr int kPerRegister = 2;
    static float a(unsigned word, int i) {
        return to_float(T{static_cast<std::uint16_t>(word >> 16 * i)});
    }
    static float b(unsigned word, int i) { return a(word, i); }
};

template <typename Element, typename Sum>
inline void mma(Sum (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    Mma<Sum, Element> operand{c, a, {b0, b1}};
    together<Mma<Sum, Element>, Mma<Sum, Element>::run>(operand);
}
inline void mma_bytes(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mma<Bytes>(c, a, b0, b1);
}
constexpr bool kHasNibbleUnits = true;
inline void mma_nibbles(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mma<Nibbles>(c, a, b0, b1);
}
template <typename T>
inline void mma_halves(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    mma<Halves<T>>(c, a, b0, b1);
}

// --- Launching ----------------------------------------------------------------------------------

template <typename... Parameters, typename... Arguments>
inline void launch(void (*kernel)(Parameters...), unsigned grid_x, unsigned grid_y,
                   unsigned threads, std::size_t shared_bytes, Queue&, Arguments... arguments) {
    simt::block().run({grid_x, grid_y, 1}, {threads, 1, 1}, shared_bytes,
                      [&] { kernel(arguments...); });
}

// Copies rows within GPU memory and fills the rest of each row with zeros.
inline void copy_rows(void* target, std::size_t target_bytes, const void* source,
                      std::size_t source_bytes, std::size_t rows, Queue&) {
    for (std::size_t row = 0; row < rows; ++row) {
        auto* to = static_cast<std::byte*>(target) + row * target_bytes;
        if (source_bytes > 0) {
            std::memcpy(to, static_cast<const std::byte*>(source) + row * source_bytes,
                        source_bytes);
        }
        std::memset(to + source_bytes, 0, target_bytes - source_bytes);
    }
}

}  // namespace resq::cuda
