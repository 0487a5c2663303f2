// Makes an operator that ONNX Runtime can register from a class of this shape:
//
//   class Kernel {
//     public:
//       static constexpr const char* kName;      // of the operator in domain ai.resq
//       static constexpr const char* kProvider;  // such as "CPUExecutionProvider"
//       static constexpr Port kInputs[], kOutputs[];
//       explicit Kernel(const NodeInfo&);        // throws Refusal
//       void compute(const NodeContext&) const;  // throws Refusal
//   };
#pragma once

#include <initializer_list>
#include <iterator>
#include <new>
#include <string>

#include "node.hpp"

namespace resq::ort {

// An input or output: a fixed type, or an activation, whose type is the operator's T.
struct Port {
    ElementType type;
    bool is_activation = false;
    bool is_optional = false;
};
constexpr Port kActivation{ElementType::kFloat, true, false};
constexpr Port kOptionalActivation{ElementType::kFloat, true, true};
constexpr Port required(ElementType type) { return {type, false, false}; }
constexpr Port optional(ElementType type) { return {type, false, true}; }

// ONNX Runtime's table of functions, stored at registration because kernels do not receive it.
inline const Api*& api() {
    static const Api* table = nullptr;
    return table;
}

inline Status* failure(const std::string& message) {
    return function<CreateStatus>(api())(ErrorCode::kInvalidArgument, message.c_str());
}

template <typename Kernel, ElementType kActivationType>
class Operator {
  public:
    // The description to register; it lives as long as the process.
    static const CustomOp* description() {
        static const CustomOp op = describe();
        return &op;
    }

  private:
    struct Instance {
        std::string where;
        Kernel kernel;
    };

    // Runs `work` and turns what it throws into a status.
    template <typename Work>
    static Status* guarded(const std::string& where, const Work& work) {
        try {
            work();
            return nullptr;
        } catch (const Refusal& refusal) {
            return failure(where + ": " + refusal.reason);
        } catch (const std::bad_alloc&) {
            return failure(where + ": out of memory");
        }
    }

    static Status* create(const CustomOp*, const Api* table, const KernelInfo* info,
                          void** kernel) {
        const NodeInfo node(table, info);
        const std::string where = std::string(Kernel::kName) + " node '" + node.name() + "'";
        return guarded(where, [&] { *kernel = new Instance{where, Kernel(node)}; });
    }

    static Status* compute(void* kernel, KernelContext* context) {
        const auto* instance = static_cast<const Instance*>(kernel);
        return guarded(instance->where,
                       [&] { instance->kernel.compute(NodeContext(api(), context)); });
    }

    static ElementType type_of(const Port& port) {
        return port.is_activation ? kActivationType : port.type;
    }
    static Characteristic characteristic_of(const Port& port) {
        return port.is_optional ? Characteristic::kOptional : Characteristic::kRequired;
    }

    static CustomOp describe() {
        CustomOp op{};
        op.version = kApiVersion;
        op.GetName = [](const CustomOp*) { return Kernel::kName; };
        op.GetExecutionProviderType = [](const CustomOp*) { return Kernel::kProvider; };
        op.GetInputTypeCount = [](const CustomOp*) { return std::size(Kernel::kInputs); };
        op.GetOutputTypeCount = [](const CustomOp*) { return std::size(Kernel::kOutputs); };
        op.GetInputType = [](const CustomOp*, std::size_t i) {
            return type_of(Kernel::kInputs[i]);
        };
        op.GetOutputType = [](const CustomOp*, std::size_t i) {
            return type_of(Kernel::kOutputs[i]);
        };
        op.GetInputCharacteristic = [](const CustomOp*, std::size_t i) {
            return characteristic_of(Kernel::kInputs[i]);
        };
        op.GetOutputCharacteristic = [](const CustomOp*, std::size_t i) {
            return characteristic_of(Kernel::kOutputs[i]);
        };
        op.GetInputMemoryType = [](const CustomOp*, std::size_t) { return MemoryType::kDefault; };
        op.GetVariadicInputMinArity = [](const CustomOp*) { return 0; };
        op.GetVariadicInputHomogeneity = [](const CustomOp*) { return 0; };
        op.GetVariadicOutputMinArity = [](const CustomOp*) { return 0; };
        op.GetVariadicOutputHomogeneity = [](const CustomOp*) { return 0; };
        op.CreateKernelV2 = create;
        op.KernelComputeV2 = compute;
        op.KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
        op.GetStartVersion = [](const CustomOp*) { return 1; };
        op.GetEndVersion = [](const CustomOp*) { return 1; };
        op.GetMayInplace = [](int**, int**) { return std::size_t{0}; };
        op.ReleaseMayInplace = [](int*, int*) {};
        op.GetAliasMap = [](int**, int**) { return std::size_t{0}; };
        op.ReleaseAliasMap = [](int*, int*) {};
        return op;
    }
};

// Adds the operator of a class to a domain, once for each type of T.
template <typename Kernel, ElementType... kActivationTypes>
Status* add_operator(CustomOpDomain* domain) {
    for (const CustomOp* op : {Operator<Kernel, kActivationTypes>::description()...}) {
        if (Status* status = function<CustomOpDomainAdd>(api())(domain, op)) {
            return status;
        }
    }
    return nullptr;
}

}  // namespace resq::ort
