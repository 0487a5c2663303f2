// Reads a MixedPrecisionMatMul node and refuses an invalid one.
#include "matmul_node.hpp"

#include <string>

namespace resq::ort {
namespace {

constexpr std::size_t kX = 0, kLow = 1, kHigh = 3, kBias = 5, kResidual = 6;

// Over more columns, a sum of products of 8-bit numbers might not fit in an int32.
constexpr std::int64_t kMaxColumns = 65536;

Part read_part(const NodeInfo& node, std::size_t index, const std::string& name, int bits,
               std::int64_t groups, std::int64_t* outputs) {
    const std::string weight_name = "W_" + name, scale_name = "S_" + name;
    const Tensor weights = node.constant(index, weight_name.c_str());
    Part part;
    part.bits = bits;
    if (!weights) {
        if (node.has_input(index + 1)) {
            throw Refusal{scale_name + " is given and " + weight_name + " is missing"};
        }
        return part;
    }
    check_shape(weight_name.c_str(), weights, {*outputs, -1});
    const ElementType expected = bits == 4 ? ElementType::kInt4 : ElementType::kInt8;
    if (weights.type != expected) {
        refuse("type of " + weight_name, "element type " + std::to_string(int(weights.type)),
               bits == 4 ? "INT4 (22) for 4 bits" : "INT8 (3) for 8 bits");
    }
    if (weights.dims[1] % groups != 0) {
        refuse("columns of " + weight_name, weights.dims[1],
               "a multiple of num_groups " + std::to_string(groups));
    }
    *outputs = weights.dims[0];
    const Tensor scales = node.required_constant(index + 1, scale_name.c_str());
    check_shape(scale_name.c_str(), scales, {*outputs});
    part.width = weights.dims[1] / groups;
    part.weights = static_cast<const std::uint8_t*>(weights.data);
    part.scales = static_cast<const float*>(scales.data);
    return part;
}

}  // namespace

MatMul read_matmul(const NodeInfo& node) {
    MatMul matmul;
    matmul.groups = node.integer("num_groups", 1);
    if (matmul.groups < 1) {
        refuse("num_groups", matmul.groups, "at least 1");
    }
    std::int64_t outputs = -1;
    const int low_bits = node.bits("low_bits", 4), high_bits = node.bits("high_bits", 8);
    matmul.parts[0] = read_part(node, kLow, "low", low_bits, matmul.groups, &outputs);
    matmul.parts[1] = read_part(node, kHigh, "high", high_bits, matmul.groups, &outputs);
    if (matmul.columns() == 0) {
        throw Refusal{"W_low and W_high are both missing, expected at least one of them"};
    }
    if (matmul.columns() > kMaxColumns) {
        refuse("the number of columns", matmul.columns(), "at most 65536");
    }
    matmul.parts[0].clip = node.real("low_clip", 1.0f);
    if (!(matmul.parts[0].clip > 0.0f && matmul.parts[0].clip <= 1.0f)) {
        refuse("low_clip", std::to_string(matmul.parts[0].clip), "above 0 and at most 1");
    }
    matmul.outputs = outputs;
    matmul.normalise = node.real("norm_epsilon", -1.0f) >= 0.0f;
    matmul.epsilon = node.real("norm_epsilon", 0.0f);
    if (matmul.normalise && matmul.groups > 1) {
        refuse("num_groups", matmul.groups, "1 with a norm");
    }
    const Tensor bias = node.constant(kBias, "bias");
    if (bias) {
        check_shape("bias", bias, {outputs});
        matmul.bias = static_cast<const float*>(bias.data);
    }
    return matmul;
}

MatMulTensors::MatMulTensors(const MatMul& matmul, const NodeContext& context)
    : x(context.input(kX)), residual(context.input(kResidual)), y(x) {
    if (x.rank == 0 || x.dims[x.rank - 1] != matmul.columns()) {
        refuse("shape of X", x.shape(),
               "(..., " + std::to_string(matmul.columns()) + ") to match the weights");
    }
    y.dims[x.rank - 1] = matmul.outputs;
    if (residual && (residual.rank != y.rank || residual.dims != y.dims)) {
        refuse("shape of residual", residual.shape(), y.shape());
    }
    y.data = context.output(0, y.dims.data(), y.rank);
    rows = x.elements() / matmul.columns();
}

}  // namespace resq::ort
