// Reads a node through ONNX Runtime's table of functions.
#include "node.hpp"

#include <cmath>
#include <cstdint>

namespace resq::ort {
namespace {

// Whether a call succeeded; its error is dropped.
bool succeeds(const Api* api, Status* status) {
    if (status == nullptr) {
        return true;
    }
    function<ReleaseStatus>(api)(status);
    return false;
}

// For calls that are expected to fail, as they only ask for a size.
void ignore(const Api* api, Status* status) { succeeds(api, status); }

// Throws `what` if a call of ONNX Runtime failed.
void check(const Api* api, Status* status, const std::string& what) {
    if (!succeeds(api, status)) {
        throw Refusal{what};
    }
}

Tensor tensor_of(const Api* api, const Value* value) {
    Tensor tensor;
    TensorInfo* info = nullptr;
    check(api, function<GetTensorTypeAndShape>(api)(value, &info), "a value is not a tensor");
    function<GetTensorElementType>(api)(info, &tensor.type);
    function<GetDimensionsCount>(api)(info, &tensor.rank);
    const bool fits = tensor.rank <= kMaxRank;
    if (fits) {
        function<GetDimensions>(api)(info, tensor.dims.data(), tensor.rank);
    }
    function<ReleaseTensorTypeAndShapeInfo>(api)(info);
    if (!fits) {
        refuse("the number of dimensions of a tensor", static_cast<std::int64_t>(tensor.rank),
               "at most 8");
    }
    check(api, function<GetTensorMutableData>(api)(const_cast<Value*>(value), &tensor.data),
          "a tensor has no data");
    return tensor;
}

std::string shape_text(const std::int64_t* dims, std::size_t rank) {
    std::string text = "(";
    for (std::size_t i = 0; i < rank; ++i) {
        text += (i > 0 ? ", " : "") + (dims[i] < 0 ? "any" : std::to_string(dims[i]));
    }
    return text + ")";
}

}  // namespace

std::int64_t Tensor::elements() const {
    std::int64_t count = 1;
    for (std::size_t i = 0; i < rank; ++i) {
        count *= dims[i];
    }
    return count;
}

std::string Tensor::shape() const { return shape_text(dims.data(), rank); }

void refuse(const std::string& what, const std::string& found, const std::string& expected) {
    throw Refusal{what + " is " + found + ", expected " + expected};
}

void refuse(const std::string& what, std::int64_t found, const std::string& expected) {
    refuse(what, std::to_string(found), expected);
}

void check_shape(const char* name, const Tensor& tensor, std::initializer_list<std::int64_t> dims) {
    bool same = tensor.rank == dims.size();
    for (std::size_t i = 0; same && i < dims.size(); ++i) {
        const std::int64_t expected = dims.begin()[i];
        same = expected < 0 || tensor.dims[i] == expected;
    }
    if (!same) {
        refuse("shape of " + std::string(name), tensor.shape(),
               shape_text(dims.begin(), dims.size()));
    }
}

std::string NodeInfo::name() const {
    std::size_t size = 0;  // asks for the size, which includes the closing zero
    ignore(api_, function<KernelInfoGetNodeName>(api_)(info_, nullptr, &size));
    std::string text(size, '\0');
    if (size > 0) {
        ignore(api_, function<KernelInfoGetNodeName>(api_)(info_, text.data(), &size));
        text.pop_back();
    }
    return text;
}

bool NodeInfo::has_input(std::size_t index) const {
    std::size_t count = 0;
    check(api_, function<KernelInfoGetInputCount>(api_)(info_, &count), "the node has no inputs");
    if (index >= count) {
        return false;
    }
    std::size_t size = 0;  // asks for the size, which includes the closing zero
    ignore(api_, function<KernelInfoGetInputName>(api_)(info_, index, nullptr, &size));
    return size > 1;
}

std::int64_t NodeInfo::integer(const char* attribute, std::int64_t otherwise) const {
    std::int64_t value = otherwise;
    float real = 0.0f;
    if (succeeds(api_, function<KernelInfoGetAttributeInt64>(api_)(info_, attribute, &value))) {
        return value;
    }
    if (succeeds(api_, function<KernelInfoGetAttributeFloat>(api_)(info_, attribute, &real))) {
        refuse("type of attribute " + std::string(attribute), "FLOAT", "INT");
    }
    return otherwise;
}

std::int64_t NodeInfo::integer(const char* attribute) const {
    constexpr std::int64_t kNone = INT64_MIN;
    const std::int64_t value = integer(attribute, kNone);
    if (value == kNone) {
        throw Refusal{"attribute " + std::string(attribute) + " is missing, expected an integer"};
    }
    return value;
}

int NodeInfo::bits(const char* attribute, int otherwise) const {
    const std::int64_t bits = integer(attribute, otherwise);
    if (bits != 4 && bits != 8) {
        refuse(attribute, bits, "4 or 8");
    }
    return static_cast<int>(bits);
}

float NodeInfo::real(const char* attribute, float otherwise) const {
    float value = otherwise;
    std::int64_t integer = 0;
    if (succeeds(api_, function<KernelInfoGetAttributeFloat>(api_)(info_, attribute, &value))) {
        return value;
    }
    if (succeeds(api_, function<KernelInfoGetAttributeInt64>(api_)(info_, attribute, &integer))) {
        refuse("type of attribute " + std::string(attribute), "INT", "FLOAT");
    }
    return otherwise;
}

float NodeInfo::real(const char* attribute) const {
    const float value = real(attribute, std::nanf(""));
    if (std::isnan(value)) {
        throw Refusal{"attribute " + std::string(attribute) + " is missing, expected a number"};
    }
    return value;
}

std::string NodeInfo::text(const char* attribute, const std::string& otherwise) const {
    char value[64] = "";
    std::size_t size = sizeof value;
    if (succeeds(api_,
                 function<KernelInfoGetAttributeString>(api_)(info_, attribute, value, &size))) {
        return value;
    }
    return size > sizeof value ? "too long" : otherwise;
}

Tensor NodeInfo::constant(std::size_t index, const char* input) const {
    if (!has_input(index)) {
        return {};
    }
    int is_constant = 0;
    const Value* value = nullptr;
    check(api_,
          function<KernelInfoGetConstantInputTensor>(api_)(info_, index, &is_constant, &value),
          std::string(input) + " cannot be read");
    if (is_constant == 0 || value == nullptr) {
        throw Refusal{std::string(input) + " is computed when the model runs, expected a constant"};
    }
    return tensor_of(api_, value);
}

Tensor NodeInfo::required_constant(std::size_t index, const char* input) const {
    const Tensor tensor = constant(index, input);
    if (!tensor) {
        throw Refusal{std::string(input) + " is missing, expected a constant"};
    }
    return tensor;
}

Allocator* NodeInfo::allocator() const {
    Allocator* allocator = nullptr;
    check(api_, function<KernelInfoGetAllocator>(api_)(info_, MemoryType::kDefault, &allocator),
          "ONNX Runtime gives no allocator");
    return allocator;
}

Tensor NodeContext::input(std::size_t index) const {
    const Value* value = nullptr;
    check(api_, function<KernelContextGetInput>(api_)(context_, index, &value),
          "input " + std::to_string(index) + " cannot be read");
    return value == nullptr ? Tensor{} : tensor_of(api_, value);
}

void* NodeContext::output(std::size_t index, const std::int64_t* dims, std::size_t rank) const {
    Value* value = nullptr;
    check(
        api_, function<KernelContextGetOutput>(api_)(context_, index, dims, rank, &value),
        "cannot allocate output " + std::to_string(index) + " of shape " + shape_text(dims, rank));
    void* data = nullptr;
    if (value != nullptr) {
        function<GetTensorMutableData>(api_)(value, &data);
    }
    return data;
}

void* NodeContext::stream() const {
    void* stream = nullptr;
    ignore(api_, function<KernelContextGetGpuComputeStream>(api_)(context_, &stream));
    return stream;
}

// A stream's memory is reused only after the stream has finished with it. Without a stream, ONNX
// Runtime's function for that must not be called.
void* NodeContext::memory(Allocator* allocator, std::size_t bytes) const {
    void* memory = nullptr;
    const std::string what = "cannot allocate " + std::to_string(bytes) + " bytes";
    if (stream() == nullptr) {
        check(api_, function<AllocatorAlloc>(api_)(allocator, bytes, &memory), what);
        return memory;
    }
    const MemoryInfo* where = nullptr;
    check(api_, function<AllocatorGetInfo>(api_)(allocator, &where), what);
    check(api_, function<KernelContextGetScratchBuffer>(api_)(context_, where, bytes, &memory),
          what);
    return memory;
}

void NodeContext::parallel_for(std::size_t total, std::size_t batches,
                               void (*task)(void*, std::size_t), void* user) const {
    check(api_, function<KernelContextParallelFor>(api_)(context_, task, total, batches, user),
          "ONNX Runtime cannot run tasks on the session's threads");
}

}  // namespace resq::ort
