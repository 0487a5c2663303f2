// MixedPrecisionMatMul in ONNX Runtime: reads the node, cuts the work for the session's threads.
#include "matmul_op.hpp"

#include <algorithm>
#include <string>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace resq::ort {
namespace {

constexpr std::size_t kX = 0, kLow = 1, kHigh = 3, kBias = 5, kResidual = 6;

// Sums of products of 8-bit numbers over more columns might not fit an int32.
constexpr std::int64_t kMaxColumns = 65536;

// Rows quantised in one task: some microseconds of work.
constexpr std::int64_t kRowsOfTask = 16;

// Bytes of weights that one task streams: long enough to hide what handing out a task costs
// (below a microsecond), short enough that no thread waits long for another.
constexpr std::int64_t kBytesOfTask = 64 * 1024;

// Rows up to which weights are streamed. Unpacking a panel costs as much as streaming it for some
// twenty rows, with AVX2 as with AVX-512-VNNI.
constexpr std::int64_t kStreamedRows = 16;

// With many rows: tasks a call is cut into at least, and rows of a task at least. A task unpacks
// its panel anew, which costs as much as multiplying it with a few rows.
constexpr std::int64_t kTasks = 16;
constexpr std::int64_t kRowsOfPanel = 96;

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
               bits == 4 ? "INT4 (22), by its number of bits" : "INT8 (3), by its number of bits");
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

int read_bits(const NodeInfo& node, const char* attribute, int otherwise) {
    const std::int64_t bits = node.integer(attribute, otherwise);
    if (bits != 4 && bits != 8) {
        refuse(attribute, bits, "4 or 8");
    }
    return static_cast<int>(bits);
}

// One call: what the tasks of it share.
struct Call {
    const Kernels& kernels;
    const MatMul& matmul;
    const NodeContext& context;
    ConstFloats x;
    MatMulOutput out;
    std::int64_t rows;
    Activations activations;

    void quantise() const {
        const std::int64_t tasks = (rows + kRowsOfTask - 1) / kRowsOfTask;
        context.parallel_for(tasks, tasks, [&](std::int64_t task) {
            kernels.quantise_rows(matmul, x, activations, task * kRowsOfTask,
                                  std::min(rows, (task + 1) * kRowsOfTask));
        });
    }

    // Each task's weights are read from memory for the first rows, and then are in the cache.
    void multiply_few() const {
        const std::size_t stride = kernels.stream_bytes(matmul);
        auto* prepared = static_cast<std::uint8_t*>(
            scratch(Use::kPrepared, stride * static_cast<std::size_t>(rows)));
        kernels.prepare_stream(matmul, activations, 0, rows, prepared);
        const std::int64_t blocks = (matmul.outputs + 15) / 16;
        const std::int64_t bytes = matmul.outputs * matmul.groups *
                                   (matmul.parts[0].width * matmul.parts[0].bits +
                                    matmul.parts[1].width * matmul.parts[1].bits) /
                                   8;
        const std::int64_t tasks = std::clamp<std::int64_t>(bytes / kBytesOfTask, 1, blocks);
        context.parallel_for(tasks, tasks, [&](std::int64_t task) {
            void* work = scratch(Use::kWork, kernels.stream_scratch_bytes(matmul));
            for (std::int64_t row = 0; row < rows; row += kernels.few_rows) {
                kernels.multiply_stream(matmul, activations, out,
                                        prepared + stride * static_cast<std::size_t>(row), row,
                                        std::min(kernels.few_rows, rows - row),
                                        blocks * task / tasks, blocks * (task + 1) / tasks, work);
            }
        });
    }

    void multiply_many() const {
        const std::int64_t width = kernels.panel_outputs;
        const std::int64_t panels = (matmul.outputs + width - 1) / width;
        const std::int64_t wanted = (kTasks + panels - 1) / panels;
        const std::int64_t cuts =
            std::clamp<std::int64_t>(rows / kRowsOfPanel, 1, std::max<std::int64_t>(wanted, 1));
        context.parallel_for(panels * cuts, panels * cuts, [&](std::int64_t task) {
            const std::int64_t panel = task / cuts, cut = task % cuts;
            void* work = scratch(Use::kWork, kernels.panel_bytes(matmul));
            kernels.multiply_panel(matmul, activations, out, panel, rows * cut / cuts,
                                   rows * (cut + 1) / cuts, work);
        });
    }
};

}  // namespace

MatMulKernel::MatMulKernel(const NodeInfo& node) : kernels_(kernels()) {
    matmul_.groups = node.integer("num_groups", 1);
    if (matmul_.groups < 1) {
        refuse("num_groups", matmul_.groups, "at least 1");
    }
    std::int64_t outputs = -1;
    const int low_bits = read_bits(node, "low_bits", 4),
              high_bits = read_bits(node, "high_bits", 8);
    matmul_.parts[0] = read_part(node, kLow, "low", low_bits, matmul_.groups, &outputs);
    matmul_.parts[1] = read_part(node, kHigh, "high", high_bits, matmul_.groups, &outputs);
    if (matmul_.columns() == 0) {
        throw Refusal{"W_low and W_high are both missing, expected one of them at least"};
    }
    if (matmul_.columns() > kMaxColumns) {
        refuse("the number of columns", matmul_.columns(), "at most 65536");
    }
    matmul_.parts[0].clip = node.real("low_clip", 1.0f);
    if (!(matmul_.parts[0].clip > 0.0f && matmul_.parts[0].clip <= 1.0f)) {
        refuse("low_clip", std::to_string(matmul_.parts[0].clip), "above 0 and at most 1");
    }
    matmul_.outputs = outputs;
    matmul_.normalise = node.real("norm_epsilon", -1.0f) >= 0.0f;
    matmul_.epsilon = node.real("norm_epsilon", 0.0f);
    if (matmul_.normalise && matmul_.groups > 1) {
        refuse("num_groups", matmul_.groups, "1 where there is a norm");
    }
    const Tensor bias = node.constant(kBias, "bias");
    if (bias) {
        check_shape("bias", bias, {outputs});
        matmul_.bias = static_cast<const float*>(bias.data);
    }
}

void MatMulKernel::compute(const NodeContext& context) const {
    const Tensor x = context.input(kX);
    if (x.rank == 0 || x.dims[x.rank - 1] != matmul_.columns()) {
        refuse("shape of X", x.shape(),
               "(..., " + std::to_string(matmul_.columns()) + ") by the weights");
    }
    Tensor y = x;
    y.dims[x.rank - 1] = matmul_.outputs;
    const Tensor residual = context.input(kResidual);
    if (residual && (residual.rank != y.rank || residual.dims != y.dims)) {
        refuse("shape of residual", residual.shape(), y.shape());
    }
    y.data = context.output(0, y.dims.data(), y.rank);
    const std::int64_t rows = x.elements() / matmul_.columns();
    if (rows == 0 || matmul_.outputs == 0) {
        return;
    }
    const auto count = static_cast<std::size_t>(rows);
    const auto segments = count * static_cast<std::size_t>(matmul_.segments());
    const std::size_t row_bytes = kernels_.row_bytes(matmul_);
    const Activations activations{
        static_cast<std::uint8_t*>(scratch(Use::kIntegers, count * row_bytes)),
        static_cast<float*>(scratch(Use::kScales, segments * sizeof(float))),
        static_cast<std::int32_t*>(scratch(Use::kZeros, segments * sizeof(std::int32_t))),
        row_bytes};
    const Call call{kernels_,
                    matmul_,
                    context,
                    const_floats(x),
                    {{y.data, float_type(y)}, const_floats(residual)},
                    rows,
                    activations};
    call.quantise();
    if (rows <= kStreamedRows && kernels_.can_stream(matmul_)) {
        call.multiply_few();
    } else {
        call.multiply_many();
    }
}

}  // namespace resq::ort
