// Products of small float matrices that fit in the caches.
//
// Every element is summed over k in order, with one rounding per step, so a row's result does not
// depend on the number of rows.
#pragma once

#include "isa.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// A (rows, depth), element (i, k) at data[i * row_stride + k * depth_stride].
struct Left {
    const float* data;
    std::int64_t row_stride, depth_stride;
};

// B (depth, columns) and C (rows, columns), row-major.
struct Right {
    const float* data;
    std::int64_t stride;
};
struct Result {
    float* data;
    std::int64_t stride;
};

template <int kRows, int kBlocks>
inline void gemm_tile(const Left& a, const Right& b, const Result& c, std::int64_t depth) {
    F sums[kRows][kBlocks];
    for (auto& row : sums) {
        for (F& block : row) {
            block = zero();
        }
    }
    for (std::int64_t k = 0; k < depth; ++k) {
        F right[kBlocks];
        for (int j = 0; j < kBlocks; ++j) {
            right[j] = load(b.data + k * b.stride + j * kLanes);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            const F left = broadcast(a.data[i * a.row_stride + k * a.depth_stride]);
#pragma GCC unroll 4
            for (int j = 0; j < kBlocks; ++j) {
                sums[i][j] = fma(left, right[j], sums[i][j]);
            }
        }
    }
    for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kBlocks; ++j) {
            store(c.data + i * c.stride + j * kLanes, sums[i][j]);
        }
    }
}

template <int kRows, int kBlocks>
inline void gemm_rows(const Left& a, const Right& b, const Result& c, std::int64_t rows,
                      std::int64_t depth) {
    std::int64_t i = 0;
    for (; i + kRows <= rows; i += kRows) {
        gemm_tile<kRows, kBlocks>({a.data + i * a.row_stride, a.row_stride, a.depth_stride}, b,
                                  {c.data + i * c.stride, c.stride}, depth);
    }
    if constexpr (kRows > 1) {
        if (i < rows) {
            gemm_rows<kRows / 2, kBlocks>({a.data + i * a.row_stride, a.row_stride, a.depth_stride},
                                          b, {c.data + i * c.stride, c.stride}, rows - i, depth);
        }
    }
}

// The last columns, fewer than sixteen, row by row with the same order of steps.
inline void gemm_last_columns(const Left& a, const Right& b, const Result& c, std::int64_t rows,
                              std::int64_t depth, std::int64_t columns) {
    for (std::int64_t i = 0; i < rows; ++i) {
        F total = zero();
        for (std::int64_t k = 0; k < depth; ++k) {
            total = fma(broadcast(a.data[i * a.row_stride + k * a.depth_stride]),
                        load_first(b.data + k * b.stride, columns), total);
        }
        store_first(c.data + i * c.stride, total, columns);
    }
}

// C = A · B. The matrices do not overlap.
inline void gemm(const Left& a, const Right& b, const Result& c, std::int64_t rows,
                 std::int64_t depth, std::int64_t columns) {
    std::int64_t j = 0;
    for (; j + kGemmBlocks * kLanes <= columns; j += kGemmBlocks * kLanes) {
        gemm_rows<kGemmRows, kGemmBlocks>(a, {b.data + j, b.stride}, {c.data + j, c.stride}, rows,
                                          depth);
    }
    for (; j + kLanes <= columns; j += kLanes) {
        gemm_rows<8, 1>(a, {b.data + j, b.stride}, {c.data + j, c.stride}, rows, depth);
    }
    if (j < columns) {
        gemm_last_columns(a, {b.data + j, b.stride}, {c.data + j, c.stride}, rows, depth,
                          columns - j);
    }
}

}  // namespace resq::RESQ_ISA
