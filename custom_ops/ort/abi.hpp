// The part of ONNX Runtime's C ABI that this library uses, declared by hand: ONNX Runtime's wheel
// ships no header. OrtApi is a table of function pointers to which new ones are only ever appended,
// so a function's slot never changes. Source: onnxruntime_c_api.h, where a slot is the function's
// position in `struct OrtApi`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace resq::ort {

// Opaque handles of ONNX Runtime.
struct Status;          // OrtStatus; a null pointer means success
struct SessionOptions;  // OrtSessionOptions
struct Api;             // OrtApi, read through `function` below
struct KernelInfo;      // OrtKernelInfo: a node, while its kernel is created
struct KernelContext;   // OrtKernelContext: a node, while its kernel runs
struct Value;           // OrtValue
struct TensorInfo;      // OrtTensorTypeAndShapeInfo
struct CustomOpDomain;  // OrtCustomOpDomain
struct Allocator;       // OrtAllocator
struct MemoryInfo;      // OrtMemoryInfo

// OrtApiBase: what a library is given when it is registered.
struct ApiBase {
    // The table for an API version, or null if this ONNX Runtime is older.
    const Api* (*GetApi)(std::uint32_t version);
    // The version of ONNX Runtime, such as "1.31.1".
    const char* (*GetVersionString)();
};

// The first API version that holds every slot in use (ONNX Runtime 1.18).
constexpr std::uint32_t kApiVersion = 18;

// The first API version: every ONNX Runtime has this table, and CreateStatus is in it.
constexpr std::uint32_t kFirstApiVersion = 1;

// OrtErrorCode, the values in use.
enum class ErrorCode : int { kFail = 1, kInvalidArgument = 2 };

// ONNXTensorElementDataType, the values in use.
enum class ElementType : int {
    kUndefined = 0,  // of an operator's input: any
    kFloat = 1,
    kUint8 = 2,
    kInt8 = 3,
    kInt64 = 7,
    kFloat16 = 10,
    kBFloat16 = 16,
    kInt4 = 22,
};

// OrtCustomOpInputOutputCharacteristic, the values in use.
enum class Characteristic : int { kRequired = 0, kOptional = 1 };

// OrtMemType: where an input must reside.
enum class MemoryType : int { kDefault = 0 };

// OrtCustomOp: describes an operator, and creates and runs its kernels.
struct CustomOp {
    std::uint32_t version;
    void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
    const char* (*GetName)(const CustomOp*);
    const char* (*GetExecutionProviderType)(const CustomOp*);
    ElementType (*GetInputType)(const CustomOp*, std::size_t index);
    std::size_t (*GetInputTypeCount)(const CustomOp*);
    ElementType (*GetOutputType)(const CustomOp*, std::size_t index);
    std::size_t (*GetOutputTypeCount)(const CustomOp*);
    void (*KernelCompute)(void* kernel, KernelContext*);
    void (*KernelDestroy)(void* kernel);
    Characteristic (*GetInputCharacteristic)(const CustomOp*, std::size_t index);
    Characteristic (*GetOutputCharacteristic)(const CustomOp*, std::size_t index);
    MemoryType (*GetInputMemoryType)(const CustomOp*, std::size_t index);
    int (*GetVariadicInputMinArity)(const CustomOp*);
    int (*GetVariadicInputHomogeneity)(const CustomOp*);
    int (*GetVariadicOutputMinArity)(const CustomOp*);
    int (*GetVariadicOutputHomogeneity)(const CustomOp*);
    Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
    Status* (*KernelComputeV2)(void* kernel, KernelContext*);
    Status* (*InferOutputShapeFn)(const CustomOp*, void* context);
    int (*GetStartVersion)(const CustomOp*);
    int (*GetEndVersion)(const CustomOp*);
    std::size_t (*GetMayInplace)(int** inputs, int** outputs);
    void (*ReleaseMayInplace)(int* inputs, int* outputs);
    std::size_t (*GetAliasMap)(int** inputs, int** outputs);
    void (*ReleaseAliasMap)(int* inputs, int* outputs);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "OrtCustomOp of API version 18");

// A function of the table: its slot and its signature.
template <std::size_t kSlotOfFunction, typename Signature>
struct Slot {
    static constexpr std::size_t kSlot = kSlotOfFunction;
    using Function = Signature*;
};

using CreateStatus = Slot<0, Status*(ErrorCode, const char* message)>;
using CreateCustomOpDomain = Slot<26, Status*(const char* domain, CustomOpDomain**)>;
using CustomOpDomainAdd = Slot<27, Status*(CustomOpDomain*, const CustomOp*)>;
using AddCustomOpDomain = Slot<28, Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData = Slot<51, Status*(Value*, void**)>;
using GetTensorElementType = Slot<60, Status*(const TensorInfo*, ElementType*)>;
using GetDimensionsCount = Slot<61, Status*(const TensorInfo*, std::size_t*)>;
using GetDimensions = Slot<62, Status*(const TensorInfo*, std::int64_t* dims, std::size_t)>;
using GetTensorTypeAndShape = Slot<65, Status*(const Value*, TensorInfo**)>;
using AllocatorAlloc = Slot<75, Status*(Allocator*, std::size_t bytes, void**)>;
using AllocatorFree = Slot<76, Status*(Allocator*, void*)>;
using AllocatorGetInfo = Slot<77, Status*(const Allocator*, const MemoryInfo**)>;
using KernelInfoGetAttributeFloat = Slot<85, Status*(const KernelInfo*, const char*, float*)>;
using KernelInfoGetAttributeInt64 =
    Slot<86, Status*(const KernelInfo*, const char*, std::int64_t*)>;
using KernelInfoGetAttributeString =
    Slot<87, Status*(const KernelInfo*, const char*, char*, std::size_t*)>;
using KernelContextGetInput = Slot<90, Status*(const KernelContext*, std::size_t, const Value**)>;
using KernelContextGetOutput =
    Slot<91, Status*(KernelContext*, std::size_t, const std::int64_t* dims, std::size_t, Value**)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseTensorTypeAndShapeInfo = Slot<99, void(TensorInfo*)>;
using ReleaseCustomOpDomain = Slot<101, void(CustomOpDomain*)>;
using ReleaseAllocator = Slot<132, void(Allocator*)>;
using KernelContextGetGpuComputeStream = Slot<193, Status*(const KernelContext*, void**)>;
using KernelInfoGetInputCount = Slot<230, Status*(const KernelInfo*, std::size_t*)>;
using KernelInfoGetInputName =
    Slot<232, Status*(const KernelInfo*, std::size_t, char*, std::size_t*)>;
using KernelInfoGetNodeName = Slot<244, Status*(const KernelInfo*, char*, std::size_t*)>;
using KernelInfoGetConstantInputTensor =
    Slot<249, Status*(const KernelInfo*, std::size_t, int* is_constant, const Value**)>;
using KernelContextParallelFor =
    Slot<274, Status*(const KernelContext*, void (*task)(void* user, std::size_t index),
                      std::size_t total, std::size_t batches, void* user)>;
using KernelContextGetScratchBuffer =
    Slot<277, Status*(const KernelContext*, const MemoryInfo*, std::size_t bytes, void**)>;
using KernelInfoGetAllocator = Slot<278, Status*(const KernelInfo*, MemoryType, Allocator**)>;

// Looks a function up in the table.
template <typename SlotOfFunction>
typename SlotOfFunction::Function function(const Api* api) {
    return reinterpret_cast<const typename SlotOfFunction::Function*>(api)[SlotOfFunction::kSlot];
}

}  // namespace resq::ort
