// GatedHadamard: a block takes a token, whose columns are in shared memory, or in the call's
// scratch memory if they do not fit.
//
//   act(gate) · up ─► inner factor ─► outer factor ─► y          columns of a part: (m, n)
//
// 1. Sylvester's factor of order n takes log2(n) steps of sums and differences: five in a warp's
//    registers, then up to four (16 columns) at once in a thread's. Other factors are multiplied.
// 2. The outer factor is small: a thread sums four of its m outputs for four columns of n. If there
//    are few tokens, several blocks share each.
#include "device.cuh"

namespace resq::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kOutputs = 4;            // outputs of the outer factor that a thread sums at once
constexpr std::int64_t kBlocks = 128;  // enough to keep a GPU busy: one per multiprocessor

__device__ __forceinline__ float activate(Activation activation, float x) {
    // gelu: x (1 + tanh(t / 2)) / 2 = x / (1 + e^-t), where t = 2 sqrt(2 / pi) (x + 0.044715 x³)
    const float t =
        activation == Activation::kSilu ? x : fmaf(x * x, 0.044715f * x, x) * 1.5957691f;
    return x * (1.0f / (1.0f + expf(-t)));
}

__device__ __forceinline__ float gated(const GatedHadamard& h, ConstFloats gate_up,
                                       std::int64_t row, std::int64_t column) {
    const std::int64_t begin = row * 2 * h.width + column;
    return activate(h.activation, load(gate_up, begin)) * load(gate_up, begin + h.width);
}

// The first five steps of the fast transform: sums and differences of lanes.
__device__ __forceinline__ float transform_warp(float x) {
    RESQ_UNROLL
    for (int mask = 1; mask < kWarpSize; mask *= 2) {
        const float other = shuffle_xor(x, mask);
        x = (lane_index() & static_cast<unsigned>(mask)) != 0 ? other - x : x + other;
    }
    return x;
}

// kSteps more steps, for columns that are `stride` apart.
template <int kSteps>
__device__ void transform(float* columns, std::int64_t width, std::int64_t stride) {
    constexpr int kCount = 1 << kSteps;
    for (std::int64_t i = threadIdx.x; i < width / kCount; i += kThreads) {
        float* first = columns + i / stride * stride * kCount + i % stride;
        float values[kCount];
        RESQ_UNROLL
        for (int k = 0; k < kCount; ++k) {
            values[k] = first[k * stride];
        }
        RESQ_UNROLL
        for (int half = 1; half < kCount; half *= 2) {
            RESQ_UNROLL
            for (int k = 0; k < kCount; ++k) {
                if ((k & half) == 0) {
                    const float a = values[k], b = values[k + half];
                    values[k] = a + b;
                    values[k + half] = a - b;
                }
            }
        }
        RESQ_UNROLL
        for (int k = 0; k < kCount; ++k) {
            first[k * stride] = values[k];
        }
    }
    __syncthreads();
}

// The remaining steps of the fast transform of rows of n columns.
__device__ void transform_rows(float* columns, std::int64_t width, std::int64_t n) {
    for (std::int64_t stride = kWarpSize; stride < n;) {
        const std::int64_t left = n / stride;
        if (left >= 16) {
            transform<4>(columns, width, stride);
            stride *= 16;
        } else if (left == 8) {
            transform<3>(columns, width, stride);
            stride *= 8;
        } else if (left == 4) {
            transform<2>(columns, width, stride);
            stride *= 4;
        } else {
            transform<1>(columns, width, stride);
            stride *= 2;
        }
    }
}

// to = from (m, n) · inner.
__device__ void multiply_inner(const HadamardPart& part, const float* from, float* to) {
    const std::int64_t n = part.inner_order;
    for (std::int64_t i = threadIdx.x; i < part.width(); i += kThreads) {
        const float* row = from + i / n * n;
        float sum = 0.0f;
        for (std::int64_t k = 0; k < n; ++k) {
            sum = fmaf(row[k], part.inner[k * n + i % n], sum);
        }
        to[i] = sum;
    }
    __syncthreads();
}

// The rows of the outer factor's result that a block sums, for each part: all, or a piece of them.
struct Piece {
    unsigned index, count;

    __device__ std::int64_t begin(std::int64_t blocks) const { return blocks * index / count; }
    __device__ std::int64_t end(std::int64_t blocks) const { return blocks * (index + 1) / count; }
};

// outerᵀ · from (m, n), to y: four outputs for four columns, of orders that are multiples of 4.
__device__ void multiply_outer_wide(const HadamardPart& part, const float* from, Piece piece,
                                    Floats y, std::int64_t begin) {
    const std::int64_t m = part.outer_order, n = part.inner_order, across = n / 4;
    const std::int64_t last = piece.end(m / kOutputs) * across;
    for (std::int64_t i = piece.begin(m / kOutputs) * across + threadIdx.x; i < last;
         i += kThreads) {
        const std::int64_t column = i % across * 4, first = i / across * kOutputs;
        float sums[kOutputs][4] = {};
        for (std::int64_t k = 0; k < m; ++k) {
            float x[4], factors[kOutputs];
            load_four(from + k * n + column, x);
            load_four(part.outer + k * m + first, factors);
            RESQ_UNROLL
            for (int j = 0; j < kOutputs; ++j) {
                RESQ_UNROLL
                for (int c = 0; c < 4; ++c) {
                    sums[j][c] = fmaf(x[c], factors[j], sums[j][c]);
                }
            }
        }
        RESQ_UNROLL
        for (int j = 0; j < kOutputs; ++j) {
            RESQ_UNROLL
            for (int c = 0; c < 4; ++c) {
                store(y, begin + (first + j) * n + column + c, sums[j][c]);
            }
        }
    }
}

// The same for any orders.
__device__ void multiply_outer(const HadamardPart& part, const float* from, Piece piece, Floats y,
                               std::int64_t begin) {
    const std::int64_t m = part.outer_order, n = part.inner_order;
    const std::int64_t blocks = (m + kOutputs - 1) / kOutputs;
    for (std::int64_t i = piece.begin(blocks) * n + threadIdx.x; i < piece.end(blocks) * n;
         i += kThreads) {
        const std::int64_t column = i % n, first = i / n * kOutputs;
        float sums[kOutputs] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (std::int64_t k = 0; k < m; ++k) {
            const float x = from[k * n + column];
            RESQ_UNROLL
            for (int j = 0; j < kOutputs; ++j) {
                const float factor = first + j < m ? part.outer[k * m + first + j] : 0.0f;
                sums[j] = fmaf(x, factor, sums[j]);
            }
        }
        RESQ_UNROLL
        for (int j = 0; j < kOutputs; ++j) {
            if (first + j < m) {
                store(y, begin + (first + j) * n + column, sums[j]);
            }
        }
    }
}

// Whether four floats can be loaded at once, both columns and the factor's elements.
__host__ __device__ inline bool is_wide(const HadamardPart& part) {
    return part.outer_order % 4 == 0 && part.inner_order % 4 == 0 &&
           reinterpret_cast<std::uintptr_t>(part.outer) % 16 == 0;
}

// Loads a part's columns and does the first steps of its fast transform.
__device__ void load_part(const GatedHadamard& h, const HadamardPart& part, ConstFloats gate_up,
                          std::int64_t row, std::int64_t before, float* columns) {
    const float factor = part.has_fast_inner ? part.inner[0] : 1.0f;
    const std::int64_t width = part.width();
    // Whole warps take part, as lanes exchange values.
    for (std::int64_t begin = warp_index() * kWarp; begin < width; begin += kThreads) {
        const std::int64_t column = begin + lane_index();
        float x = column < width ? gated(h, gate_up, row, before + column) : 0.0f;
        if (part.has_fast_inner) {
            x = transform_warp(x) * factor;
        }
        if (column < width) {
            columns[column] = x;
        }
    }
    __syncthreads();
}

// Blocks that share a token: with few tokens most of the GPU would be idle. Each block computes the
// inner factor, which costs little, and a piece of the outer factor's results.
std::int64_t pieces_of_token(const GatedHadamard& h, std::int64_t rows) {
    std::int64_t most = 1;
    for (const HadamardPart& part : h.parts) {
        const std::int64_t blocks = (part.outer_order + kOutputs - 1) / kOutputs;
        most = blocks > most ? blocks : most;
    }
    const std::int64_t wanted = kBlocks / rows;
    return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

// Floats of memory per token: a part, and as much again if its inner factor is multiplied.
std::int64_t floats_of_token(const GatedHadamard& h) {
    std::int64_t most = 0;
    for (const HadamardPart& part : h.parts) {
        const std::int64_t floats = part.has_fast_inner ? part.width() : 2 * part.width();
        most = floats > most ? floats : most;
    }
    return most;
}

bool fits(const GatedHadamard& h, const Gpu& gpu) {
    return static_cast<std::size_t>(floats_of_token(h)) * sizeof(float) <= gpu.shared_bytes;
}

__global__ void __launch_bounds__(kThreads)
    gate_and_rotate(const __grid_constant__ GatedHadamard h, ConstFloats gate_up, Floats y,
                    float* scratch, std::int64_t floats) {
    const std::int64_t row = blockIdx.x;
    const Piece piece{blockIdx.y, gridDim.y};
    float* columns = scratch != nullptr ? scratch + (row * gridDim.y + blockIdx.y) * floats
                                        : shared_memory<float>();
    std::int64_t before = 0;
    for (const HadamardPart& part : h.parts) {
        if (part.width() == 0) {
            continue;
        }
        load_part(h, part, gate_up, row, before, columns);
        const float* transformed = columns;
        if (part.has_fast_inner) {
            transform_rows(columns, part.width(), part.inner_order);
        } else {
            multiply_inner(part, columns, columns + part.width());
            transformed = columns + part.width();
        }
        if (is_wide(part)) {
            multiply_outer_wide(part, transformed, piece, y, row * h.width + before);
        } else {
            multiply_outer(part, transformed, piece, y, row * h.width + before);
        }
        before += part.width();
        __syncthreads();  // the next part reuses this one's memory
    }
}

__global__ void __launch_bounds__(kThreads)
    gate_alone(const __grid_constant__ GatedHadamard h, ConstFloats gate_up, Floats y) {
    const std::int64_t row = blockIdx.x;
    for (std::int64_t column = threadIdx.x; column < h.width; column += kThreads) {
        store(y, row * h.width + column, gated(h, gate_up, row, column));
    }
}

}  // namespace

std::size_t hadamard_scratch_bytes(const GatedHadamard& h, std::int64_t rows, const Gpu& gpu) {
    return h.rotates && !fits(h, gpu)
               ? static_cast<std::size_t>(rows * pieces_of_token(h, rows) * floats_of_token(h)) *
                     sizeof(float)
               : 0;
}

void gated_hadamard(const GatedHadamard& h, ConstFloats gate_up, Floats y, std::int64_t rows,
                    float* scratch, Queue& queue) {
    const auto grid = static_cast<unsigned>(rows);
    if (!h.rotates) {
        launch(gate_alone, grid, 1, kThreads, 0, queue, h, gate_up, y);
        return;
    }
    const std::int64_t floats = floats_of_token(h);
    const std::size_t shared =
        scratch == nullptr ? static_cast<std::size_t>(floats) * sizeof(float) : 0;
    launch(gate_and_rotate, grid, static_cast<unsigned>(pieces_of_token(h, rows)), kThreads, shared,
           queue, h, gate_up, y, scratch, floats);
}

}  // namespace resq::cuda
