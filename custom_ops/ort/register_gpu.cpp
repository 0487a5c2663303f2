// Registers the operators for GPUs.
#include <cstring>
#include <initializer_list>
#include <string>

#include "gpu_adapters.hpp"
#include "operator.hpp"
#include "register.hpp"
#include "resq/cuda_entry.h"
#include "resq/isa.h"
#include "resq/version.h"

namespace resq::ort {
namespace {

template <typename Kernel>
Status* add(CustomOpDomain* domain) {
    return add_operator<Kernel, ElementType::kFloat, ElementType::kFloat16, ElementType::kBFloat16>(
        domain);
}

}  // namespace

Status* add_operators(CustomOpDomain* domain) {
    for (Status* (*step)(CustomOpDomain*) :
         {add<GpuMatMulKernel>, add<GpuAttentionKernel>, add<GpuHadamardKernel>}) {
        if (Status* status = step(domain)) {
            return status;
        }
    }
    return nullptr;
}

}  // namespace resq::ort

#ifdef RESQ_SIMT

const char* resq_onnx_isa() { return "simt"; }
const char* resq_onnx_available_isas() { return "simt"; }

#else

resq::ort::Status* resq_onnx_add_cuda_operators(const resq::ort::Api* api,
                                                resq::ort::CustomOpDomain* domain,
                                                const char* version) {
    resq::ort::api() = api;
    if (std::strcmp(version, resq_onnx_version()) != 0) {
        return resq::ort::failure(std::string("resq-onnx: the CUDA library is of version ") +
                                  resq_onnx_version() + ", the library beside it of " + version +
                                  "; build both together");
    }
    return resq::ort::add_operators(domain);
}

#endif
