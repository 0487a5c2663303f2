// Loads the CUDA library, a separate file that only machines with a GPU need.
#include <dlfcn.h>
#include <unistd.h>

#include <string>

#include "operator.hpp"
#include "register.hpp"
#include "resq/cuda_entry.h"
#include "resq/version.h"

namespace resq::ort {
namespace {

constexpr const char* kFile = "libresq_onnx_ops_cuda.so";

// The folder from which this library was loaded.
std::string own_folder() {
    Dl_info info;
    if (dladdr(reinterpret_cast<const void*>(&resq_onnx_version), &info) == 0) {
        return ".";
    }
    const std::string path = info.dli_fname;
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

}  // namespace

Status* add_cuda_operators(CustomOpDomain* domain) {
    const std::string path = own_folder() + "/" + kFile;
    if (access(path.c_str(), F_OK) != 0) {
        return nullptr;
    }
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        return failure("resq-onnx: " + std::string(dlerror()));
    }
    const auto add = reinterpret_cast<decltype(&resq_onnx_add_cuda_operators)>(
        dlsym(library, "resq_onnx_add_cuda_operators"));
    if (add == nullptr) {
        return failure("resq-onnx: " + std::string(dlerror()));
    }
    return add(api(), domain, resq_onnx_version());
}

}  // namespace resq::ort
