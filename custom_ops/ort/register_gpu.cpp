// The operators on a GPU.
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
Status* add_operator(CustomOpDomain* domain) {
    for (const CustomOp* op : {
             Operator<Kernel, ElementType::kFloat>::description(),
             Operator<Kernel, ElementType::kFloat16>::description(),
             Operator<Kernel, ElementType::kBFloat16>::description(),
         }) {
        if (Status* status = function<CustomOpDomainAdd>(api())(domain, op)) {
            return status;
        }
    }
    return nullptr;
}

}  // namespace

Status* add_operators(CustomOpDomain* domain) {
    for (Status* (*add)(CustomOpDomain*) :
         {add_operator<GpuMatMulKernel>, add_operator<GpuAttentionKernel>,
          add_operator<GpuHadamardKernel>}) {
        if (Status* status = add(domain)) {
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
