# The sources of the GPU operators, compiled for a GPU (cuda/) and for a CPU that simulates one
# (simt/).
set(RESQ_GPU_KERNELS
  attention.cu
  attention_few.cu
  attention_many.cu
  attention_prepare.cu
  gpu.cu
  hadamard.cu
  matmul_few.cu
  matmul_many.cu
  matmul_plan.cu
  quantise.cu
)
# Relative to custom_ops/.
set(RESQ_GPU_ADAPTERS
  ort/attention_node.cpp
  ort/contention.cpp
  ort/gpu_adapters.cpp
  ort/gpu_memory.cpp
  ort/hadamard_node.cpp
  ort/matmul_node.cpp
  ort/node.cpp
  ort/register_gpu.cpp
  ort/version.cpp
)
