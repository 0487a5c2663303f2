// The part of ONNX Runtime's C ABI that this library uses, declared by hand: ONNX Runtime's wheel
// ships no header. OrtApi is a table of function pointers to which new ones are only ever
// appended, so a function is known by its slot for good. Source: onnxruntime_c_api.h, where a
// slot is the function's position in `struct OrtApi`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace resq::ort {

// Handles of ONNX Runtime, never looked into.
struct Status;          // OrtStatus; a null pointer means success
struct SessionOptions;  // OrtSessionOptions
struct Api;             // OrtApi, read through `function` below

// OrtApiBase: the one thing handed to a library when it is registered.
struct ApiBase {
    // The table for an API version, or null where this ONNX Runtime is older than that.
    const Api* (*GetApi)(std::uint32_t version);
    // The version of ONNX Runtime, such as "1.31.1".
    const char* (*GetVersionString)();
};

// The first API version that holds every slot the operators will need (ONNX Runtime 1.18).
constexpr std::uint32_t kApiVersion = 18;

// The first API version of all: any ONNX Runtime gives this table, and CreateStatus is in it.
constexpr std::uint32_t kFirstApiVersion = 1;

// OrtErrorCode, the values in use.
enum class ErrorCode : int { kFail = 1 };

using CreateStatusFn = Status* (*)(ErrorCode code, const char* message);
constexpr std::size_t kCreateStatusSlot = 0;

// The function in a slot of the table.
template <typename Function>
Function function(const Api* api, std::size_t slot) {
    return reinterpret_cast<const Function*>(api)[slot];
}

}  // namespace resq::ort
