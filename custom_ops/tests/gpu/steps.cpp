// Sizes, memory and launches of the steps.
#include "steps.hpp"

#include <cmath>

namespace resq::tests::gpu {
namespace {

constexpr Float kType = Float::kHalf;
constexpr float kEpsilon = 1e-5f;

std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

cuda::Gpu this_gpu() {
    const char* error = nullptr;
    return cuda::this_gpu(&error);
}

MatMul matmul_of(const Shape& s) {
    MatMul m;
    m.outputs = s.at("outputs");
    m.groups = s.at("groups");
    m.parts[0].width = s.at("low");
    m.parts[1].width = s.at("high");
    m.parts[1].bits = 8;
    m.normalise = s.at("norm") != 0;
    m.epsilon = kEpsilon;
    return m;
}

std::size_t weight_bytes(const MatMul& m, const Part& part) {
    return size(m.outputs * m.groups * part.width * part.bits / 8);
}

class Linear : public Step {
  public:
    Linear(const Shape& s, Memory& memory, Content& content, const void* x, const Linear* like)
        : matmul_(matmul_of(s)), rows_(s.at("rows")), x_(x) {
        quantises_ = s.kind != "multiply";
        multiplies_ = s.kind != "quantise";
        for (Part& part : matmul_.parts) {
            if (part.width > 0 && multiplies_) {
                part.weights = content.bytes(memory, weight_bytes(matmul_, part));
                // Results are then about as large as x.
                part.scales =
                    content.floats(memory, size(matmul_.outputs),
                                   1.0f / (static_cast<float>(part.bits == 4 ? 5 : 74) *
                                           std::sqrt(static_cast<float>(matmul_.columns()))));
            }
        }
        plan_ = cuda::plan_of(matmul_, rows_, this_gpu());
        if (like != nullptr) {
            x_ = x != nullptr ? x : like->x_;
            activations_ = like->activations_;
            residual_ = like->residual_;
            y_ = like->y_;
            return;
        }
        if (x_ == nullptr) {
            x_ = content.halves(memory, size(rows_ * matmul_.columns()));
        }
        const std::size_t row_bytes = cuda::row_bytes(matmul_, plan_);
        const std::size_t segments = size(rows_ * matmul_.segments());
        activations_ = {memory.make<std::uint8_t>(size(rows_) * row_bytes),
                        memory.make<float>(segments), memory.make<std::int32_t>(segments),
                        row_bytes};
        const std::size_t results = size(rows_ * matmul_.outputs);
        residual_ = s.at("adds") != 0 ? content.halves(memory, results) : nullptr;
        y_ = memory.make<std::uint16_t>(results);
        if (!quantises_) {
            memory.stream().launch([this](cuda::Queue& queue) { quantise(queue); });
        }
    }

    void launch(cuda::Queue& queue) const override {
        if (quantises_) {
            quantise(queue);
        }
        if (multiplies_) {
            cuda::multiply(matmul_, plan_, rows_, activations_, {{y_, kType}, {residual_, kType}},
                           queue);
        }
    }

  private:
    void quantise(cuda::Queue& queue) const {
        cuda::quantise_rows(matmul_, plan_, {x_, kType}, rows_, activations_, queue);
    }

    MatMul matmul_;
    cuda::Plan plan_;
    std::int64_t rows_;
    const void* x_;
    bool quantises_, multiplies_;
    Activations activations_{};
    const void* residual_ = nullptr;
};

Record record_of(const Shape& s) { return Record::of(s.at("dim"), s.at("high"), 4); }

std::size_t record_count(const Shape& s) {
    return size(s.at("sequences") * s.at("kv_heads") * s.at("context"));
}

class AttentionStep : public Step {
  public:
    AttentionStep(const Shape& s, Memory& memory, Content& content, const void* x,
                  const AttentionStep* like)
        : prepares_(s.kind != "attend"), attends_(s.kind != "prepare") {
        attention_.heads = s.at("heads");
        attention_.kv_heads = s.at("kv_heads");
        attention_.head_dim = attention_.rotary_dim = s.at("dim");
        attention_.scale = 1.0f / std::sqrt(static_cast<float>(attention_.head_dim));
        attention_.record = record_of(s);
        attention_.positions = s.at("context");
        const std::int64_t d = attention_.head_dim;
        const std::size_t angles = size(attention_.positions * d / 2);
        attention_.cos = content.floats(memory, angles, 1.0f);
        attention_.sin = content.floats(memory, angles, 0.0f);
        attention_.projection =
            content.floats(memory, size(attention_.kv_heads * d * d), 1.0f / static_cast<float>(d));
        call_.batch = call_.rows = s.at("sequences");
        call_.tokens = s.at("tokens");
        call_.total = call_.capacity = s.at("context");
        call_.keys = content.records(memory, attention_.record, record_count(s));
        call_.values = content.records(memory, attention_.record, record_count(s));
        const std::int64_t rows = call_.batch * call_.tokens;
        call_.qkv = {x, kType};
        if (x == nullptr && like != nullptr) {
            call_.qkv = like->call_.qkv;
        } else if (x == nullptr) {
            const std::int64_t heads = attention_.heads + 2 * attention_.kv_heads;
            call_.qkv.data = content.halves(memory, size(rows * heads * d));
        }
        if (like != nullptr) {
            call_.mask = like->call_.mask;
            call_.queries = like->call_.queries;
            call_.partial = like->call_.partial;
            y_ = like->y_;
            call_.y = {y_, kType};
            return;
        }
        y_ = memory.make<std::uint16_t>(size(rows * attention_.heads * d));
        call_.y = {y_, kType};
        call_.mask = memory.upload(std::vector<std::int64_t>(size(call_.batch * call_.total), 1));
        call_.queries = memory.make<float>(cuda::query_floats(attention_, call_));
        call_.partial = memory.make<float>(cuda::partial_floats(attention_, call_));
        memory.stream().launch(
            [this](cuda::Queue& queue) { cuda::prepare_tokens(attention_, call_, queue); });
        memory.stream().wait();
    }

    void launch(cuda::Queue& queue) const override {
        if (prepares_) {
            cuda::prepare_tokens(attention_, call_, queue);
        }
        if (attends_) {
            cuda::attend_prepared(attention_, call_, queue);
        }
    }

  private:
    Attention attention_;
    AttentionCall call_{};
    bool prepares_, attends_;
};

class Gate : public Step {
  public:
    Gate(const Shape& s, Memory& memory, Content& content, const void* x, const Gate* like)
        : rows_(s.at("rows")), x_(x) {
        const char* const names[2][2] = {{"low_outer", "low_inner"}, {"high_outer", "high_inner"}};
        for (int p = 0; p < 2; ++p) {
            HadamardPart& part = hadamard_.parts[p];
            part.outer_order = s.at(names[p][0]);
            part.inner_order = s.at(names[p][1]);
            part.outer = content.floats(memory, size(part.outer_order * part.outer_order), 0.25f);
            part.inner = content.floats(memory, size(part.inner_order * part.inner_order), 0.25f);
            part.has_fast_inner = part.inner_order >= 32;
            hadamard_.width += part.width();
        }
        hadamard_.rotates = true;
        if (like != nullptr) {
            x_ = x != nullptr ? x : like->x_;
            scratch_ = like->scratch_;
            y_ = like->y_;
            return;
        }
        if (x_ == nullptr) {
            x_ = content.halves(memory, size(2 * rows_ * hadamard_.width));
        }
        const std::size_t bytes = cuda::hadamard_scratch_bytes(hadamard_, rows_, this_gpu());
        scratch_ = bytes > 0 ? memory.make<float>(bytes / sizeof(float)) : nullptr;
        y_ = memory.make<std::uint16_t>(size(rows_ * hadamard_.width));
    }

    void launch(cuda::Queue& queue) const override {
        cuda::gated_hadamard(hadamard_, {x_, kType}, {y_, kType}, rows_, scratch_, queue);
    }

  private:
    GatedHadamard hadamard_;
    std::int64_t rows_;
    const void* x_;
    float* scratch_ = nullptr;
};

template <typename Kind>
std::unique_ptr<Step> make(const Shape& shape, Memory& memory, Content& content, const void* x,
                           const Step* like) {
    return std::make_unique<Kind>(shape, memory, content, x, dynamic_cast<const Kind*>(like));
}

bool is_linear(const Shape& shape) {
    return shape.kind == "linear" || shape.kind == "quantise" || shape.kind == "multiply";
}

bool is_attention(const Shape& shape) {
    return shape.kind == "attention" || shape.kind == "prepare" || shape.kind == "attend";
}

}  // namespace

std::unique_ptr<Step> make_step(const Shape& shape, Memory& memory, Content& content, const void* x,
                                const Step* like) {
    if (is_linear(shape)) {
        return make<Linear>(shape, memory, content, x, like);
    }
    if (is_attention(shape)) {
        return make<AttentionStep>(shape, memory, content, x, like);
    }
    if (shape.kind == "gate") {
        return make<Gate>(shape, memory, content, x, like);
    }
    throw std::invalid_argument("\"" + shape.kind + "\" is no step");
}

std::size_t constant_bytes(const Shape& shape) {
    if (shape.kind == "linear" || shape.kind == "multiply") {
        const MatMul m = matmul_of(shape);
        return weight_bytes(m, m.parts[0]) + weight_bytes(m, m.parts[1]);
    }
    if (shape.kind == "attend" || shape.kind == "attention") {
        return 2 * record_count(shape) * size(record_of(shape).bytes);
    }
    return 0;
}

}  // namespace resq::tests::gpu
