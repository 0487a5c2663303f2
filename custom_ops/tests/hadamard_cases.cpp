// GatedHadamard: various orders of the factors, numbers of rows, both types.
#include "hadamard_cases.hpp"

namespace resq::tests {
namespace {

using Visit = std::function<void(const HadamardCase&)>;

// Orders of the factors of both parts; 0: the part is absent.
struct Orders {
    std::int64_t low_outer, low_inner, high_outer, high_inner;
};

const Orders kOrders[] = {
    {1, 1, 0, 0},   {3, 1, 0, 0},     {0, 0, 3, 1},     {1, 1, 3, 1},  {3, 1, 1, 1},
    {1, 16, 0, 0},  {12, 16, 0, 0},   {12, 16, 12, 1},  {5, 17, 2, 8}, {20, 33, 4, 4},
    {84, 16, 0, 0}, {84, 16, 12, 16}, {28, 64, 1, 256},
};

// Parts whose inner factor is Sylvester's matrix, for the fast transform.
const Orders kFastOrders[] = {{1, 32, 0, 0}, {5, 64, 12, 16}, {3, 256, 1, 1024}};

// A multiple of Sylvester's matrix. Small orders have no fast transform.
std::vector<float> sylvester(std::int64_t order) {
    std::vector<float> matrix(static_cast<std::size_t>(order * order), 0.25f);
    for (std::int64_t i = 0; i < order; ++i) {
        for (std::int64_t j = 0; j < order; ++j) {
            for (std::int64_t bit = 1; bit < order; bit *= 2) {
                if ((i & j & bit) != 0) {
                    matrix[static_cast<std::size_t>(i * order + j)] *= -1.0f;
                }
            }
        }
    }
    return matrix;
}

// Widths without a rotation.
const std::int64_t kWidths[] = {1, 15, 16, 17, 100};

void vary(const std::string& name, const GatedHadamard& hadamard, bool quick, Random& random,
          const Visit& visit) {
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 8, 9}) {
        for (const Float type : {Float::kSingle, Float::kHalf}) {
            if (quick && !random.one_in(4)) {
                continue;
            }
            const std::string full =
                name + " rows=" + std::to_string(rows) + (type == Float::kHalf ? " float16" : "");
            visit({full, hadamard, rows, Values::random(type, rows * 2 * hadamard.width, random)});
        }
    }
}

void each_orders(const Orders& orders, bool is_fast, bool quick, Random& random,
                 const Visit& visit) {
    const std::int64_t order[4] = {orders.low_outer, orders.low_inner, orders.high_outer,
                                   orders.high_inner};
    std::vector<float> factors[4];
    std::string name = is_fast ? "fast hadamard" : "hadamard";
    for (int i = 0; i < 4; ++i) {
        factors[i] = is_fast && i % 2 == 1 ? sylvester(order[i])
                                           : random_floats(order[i] * order[i], random);
        name += (i % 2 == 0 ? " " : "x") + std::to_string(order[i]);
    }
    GatedHadamard hadamard;
    for (std::size_t p = 0; p < 2; ++p) {
        const float* inner = factors[2 * p + 1].data();
        hadamard.parts[p] = {order[2 * p], order[2 * p + 1], factors[2 * p].data(), inner,
                             is_sylvester(inner, order[2 * p + 1])};
        hadamard.width += hadamard.parts[p].width();
    }
    hadamard.rotates = true;
    hadamard.activation = random.one_in(3) ? Activation::kGeluTanh : Activation::kSilu;
    vary(name, hadamard, quick, random, visit);
}

}  // namespace

void each_hadamard(const Selection& selection, const Visit& visit) {
    const bool quick = selection.quick;
    Random random(selection.seed + 3);
    for (const Orders& orders : kOrders) {
        each_orders(orders, false, quick, random, visit);
    }
    for (const Orders& orders : kFastOrders) {
        each_orders(orders, true, quick, random, visit);
    }
    for (const std::int64_t width : kWidths) {
        GatedHadamard hadamard;
        hadamard.width = width;
        vary("silu width=" + std::to_string(width), hadamard, quick, random, visit);
        hadamard.activation = Activation::kGeluTanh;
        vary("gelu width=" + std::to_string(width), hadamard, quick, random, visit);
    }
}

}  // namespace resq::tests
