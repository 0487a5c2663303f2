# make demo   fetch a small model, export it, let the exported file speak
# make test   before a commit: the checks, the kernels, the fast tests, one real export; 8 minutes
# make test-rest       the tests that `make test` leaves out: slow ones, and pages in a browser
# make test-all        every test there is: test, test-rest, test-sanitized, test-simt, test-aarch64
# make fuzz   damaged inputs to every command for a minute; FUZZ_ARGS="--seconds 600 --seed 1" for more
# make lint   the checks alone
# make docs            the site of docs/ with an API reference, into build/site; a broken link is an error
# make test-kernels    every instruction set of this CPU against the scalar kernels
# make test-sanitized  kernels and operators with AddressSanitizer and UndefinedBehaviorSanitizer
# make test-simt       the kernels for CUDA, executed on this CPU; needs neither nvcc nor a GPU
# make cuda            libresq_onnx_ops_cuda.so for all architectures, into build/cuda; needs nvcc
# make gpu             proves and times the kernels on a GPU in eight minutes, into build/gpu; needs
#                      nvcc, CMake and a Python with PyTorch, and installs nothing
# make gpu-rehearsal   the same on this CPU, which acts as a GPU, with small shapes
# make gpu-kit         wheels for tests/cuda on a machine without a network, into build/kit
# make test-cuda       builds the kernels for CUDA, and compares a GPU with the CPU; needs nvcc
# make cuda-evidence   what a compiler makes of them, into docs/cuda.md; needs nvcc and no GPU
# make test-aarch64    kernels for 64-bit Arm, cross-compiled and emulated
# make clean  remove all that the others made

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= Tell me about the sea.
# More for pytest, such as -k hadamard; and how many tests run at once, on one thread each.
PYTEST_ARGS ?=
FUZZ_ARGS ?= --seconds 60
TEST_PROCESSES ?= auto

BIN := $(VENV)/bin
MODELS := build/models
MODEL := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
EXPORTED := build/smollm2/model.onnx
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

SIMT := build/simt/simt/libresq_onnx_ops_simt.so
CUDA := build/cuda/libresq_onnx_ops_cuda.so
CUDA_VENV := build/venv-cuda
# Of the extra "test" what tests/cuda imports: the rest of it brings onnxruntime for CPUs.
CUDA_TESTS := pytest

CUDA_TOOLS := build/venv-cuda-tools

DOCS_VENV := build/venv-docs
DOCS_EXTRA := import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["optional-dependencies"]["docs"])

# What pip brings in where the system has none.
CUOBJDUMP ?= $(or $(shell command -v cuobjdump),$(CUDA_TOOLS)/bin/python)
CMAKE ?= $(or $(shell command -v cmake),$(BIN)/cmake)
CMAKE_KERNELS := $(CMAKE) -S custom_ops -DRESQ_TESTS=ON -DRESQ_WARNINGS_AS_ERRORS=ON
AARCH64 := aarch64-linux-gnu-g++
SANITIZED_TESTS := $(foreach name,fuzz concurrency attention ragged_attention matmul hadamard shared_buffer refusals,\
	tests/custom_ops/test_$(name).py)
# The longest first.
SIMT_TESTS := tests/simt $(foreach name,fuzz attention matmul hadamard shared_buffer refusals,\
	tests/custom_ops/test_$(name).py)
# The sanitizers come before everything else. A signal stays a signal, and a leak of Python's or
# ONNX Runtime's is none of ours.
SANITIZERS = LD_PRELOAD="$(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1

# Files stay in the order of collection, in which the longest come first.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
TEST_ENVIRONMENT = RESQ_TEST_MODEL=$(abspath $(MODEL)) $(ONE_THREAD)
PYTEST = $(TEST_ENVIRONMENT) $(BIN)/python -m pytest --durations 25 --dist loadfile \
	--numprocesses $(TEST_PROCESSES) --maxprocesses 4 --no-loadscope-reorder
# Under a sanitizer, single tests are spread over the processes, as few files take most of the time.
SANITIZED_PYTEST = $(SANITIZERS) $(ONE_THREAD) $(BIN)/python -m pytest -m "" --durations 25 \
	--dist worksteal --numprocesses $(TEST_PROCESSES) --maxprocesses 4
# Two halves, and nothing is in both. -m takes the place of the choice in pyproject.toml.
FIRST_HALF := not slow and not browser and not cuda
SECOND_HALF := (slow or browser) and not cuda

PACKAGING := pyproject.toml constraints.txt $(shell find custom_ops -type f)
PYTHON_SOURCES := $(shell find resq_onnx passes -name '*.py')
CXX_SOURCES := $(shell find custom_ops tests/benchmarks -name '*.h' -o -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo docs installed test test-rest test-all fuzz build-kernels test-kernels \
	test-kernels-sanitized test-sanitized build-simt test-simt test-cuda test-aarch64 cuda \
	cuda-evidence gpu gpu-rehearsal gpu-kit lint clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/installed-demo $(MODEL)
	mkdir -p $(dir $(EXPORTED))
	$(BIN)/resq-onnx export $(MODEL) $(EXPORTED)
	$(BIN)/resq-onnx generate $(EXPORTED) --chat --prompt "$(PROMPT)" --max-new-tokens 60
	$(BIN)/resq-onnx inspect $(EXPORTED)

# Warnings are errors by pyproject.toml; `-W error` here would undo the exceptions listed there.
test: lint test-kernels $(MODEL)
	$(PYTEST) -m "$(FIRST_HALF)" $(PYTEST_ARGS)

test-rest: $(VENV)/installed-test $(MODEL)
	$(PYTEST) -m "$(SECOND_HALF)" $(PYTEST_ARGS)

fuzz: $(VENV)/installed-test
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

test-all: test test-rest test-sanitized test-simt test-aarch64

build-kernels: | $(CMAKE)
	$(CMAKE_KERNELS) -B build/kernels
	$(CMAKE) --build build/kernels --parallel 2 --target compare_kernels test_contention headers_alone

test-kernels: build-kernels
	build/kernels/tests/test_contention
	build/kernels/tests/compare_kernels

test-kernels-sanitized: | $(CMAKE)
	$(CMAKE_KERNELS) -B build/sanitized -DRESQ_SANITIZE=ON
	$(CMAKE) --build build/sanitized --parallel 2
	build/sanitized/tests/compare_kernels --quick

# A sanitizer keeps freed memory for a while: the test that watches for leaks is left out.
test-sanitized: test-kernels-sanitized $(VENV)/installed-test
	RESQ_ONNX_LIBRARY=$(abspath build/sanitized/libresq_onnx_ops.so) \
		$(SANITIZED_PYTEST) $(SANITIZED_TESTS) $(PYTEST_ARGS) \
		--deselect tests/custom_ops/test_concurrency.py::test_ten_thousand_decode_steps_leak_nothing

# The very .cu files, compiled as C++: custom_ops/simt. Once more for GPUs that multiply 4-bit numbers.
build-simt: | $(CMAKE)
	$(CMAKE_KERNELS) -B build/simt -DRESQ_SIMT=ON -DRESQ_SANITIZE=ON
	$(CMAKE) --build build/simt --parallel 2 --target resq_onnx_ops_simt compare_cuda_simt

test-simt: $(VENV)/installed-test build-simt
	RESQ_ONNX_LIBRARY=$(abspath $(SIMT)) $(SANITIZED_PYTEST) $(SIMT_TESTS) $(PYTEST_ARGS)
	RESQ_ONNX_LIBRARY=$(abspath $(SIMT)) RESQ_SIMT_CAPABILITY=86 \
		$(SANITIZED_PYTEST) tests/custom_ops/test_matmul.py $(PYTEST_ARGS)

# The library has to load where there is no GPU, and to stay below 20 MB.
cuda: $(VENV)/installed-test | $(CMAKE)
	$(CMAKE) -S custom_ops -B build/cuda -DRESQ_CUDA=ON -DRESQ_WARNINGS_AS_ERRORS=ON
	$(CMAKE) --build build/cuda --parallel 2 --target resq_onnx_ops_cuda resq_onnx_ops
	RESQ_CUDA_LIBRARY=$(abspath $(CUDA)) $(BIN)/python -m pytest -q tests/custom_ops/test_cuda_library.py
	@ls -l $(CUDA)

# With the machine's own Python and what is installed there: it may have no network.
gpu:
	@$(PYTHON) -m scripts.gpu_run

gpu-rehearsal: $(VENV)/installed-test build-simt
	$(ONE_THREAD) $(BIN)/python -m scripts.gpu_run --rehearse build/simt --folder build/gpu-rehearsal

gpu-kit: $(VENV)/installed-test
	$(BIN)/python -m scripts.gpu_kit assemble build/kit

# In an environment of its own: onnxruntime and onnxruntime-gpu share an import name. The pinned
# onnxruntime-gpu is for CUDA 13; its extras bring CUDA's and cuDNN's libraries, the driver is yours.
test-cuda: $(CUDA_VENV)/installed-cuda $(MODEL)
	RESQ_TEST_MODEL=$(abspath $(MODEL)) $(CUDA_VENV)/bin/python -m pytest -m cuda tests/cuda $(PYTEST_ARGS)
	@$(CUDA_VENV)/bin/python -m tests.cuda.gpu

$(CUDA_VENV)/installed-cuda: $(PACKAGING)
	$(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt \
		"onnxruntime-gpu[cuda,cudnn]" -e ".[export,gpu]" $(CUDA_TESTS) \
		-C cmake.define.RESQ_CUDA=ON -C build-dir=build/cuda/{wheel_tag}
	touch $@

# Fails where a kernel spills registers or lacks the instructions it is made of. cuobjdump is
# NVIDIA's, from PyPI where the system has none.
cuda-evidence: $(VENV)/installed-test | $(CMAKE) $(CUOBJDUMP)
	$(BIN)/python -m scripts.cuda_evidence

$(CUDA_TOOLS)/bin/python:
	$(PYTHON) -m venv $(CUDA_TOOLS)
	$@ -m pip install --disable-pip-version-check "nvidia-cuda-cuobjdump~=13.0" "nvidia-cuda-nvdisasm~=13.0"

# Scalar kernels give the same bits on both CPUs: their checksums are compared.
test-aarch64: build-kernels
	$(CMAKE_KERNELS) -B build/aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=$(AARCH64) -DCMAKE_EXE_LINKER_FLAGS=-static
	$(CMAKE) --build build/aarch64 --parallel 2 --target all headers_alone
	build/kernels/tests/compare_kernels --quick > build/kernels/quick.txt
	qemu-aarch64 build/aarch64/tests/compare_kernels --quick > build/aarch64/quick.txt
	@cat build/aarch64/quick.txt
	grep -q '^neon *executed: .* 0 mismatches$$' build/aarch64/quick.txt
	@tail -n 1 build/kernels/quick.txt
	test "$$(tail -n 1 build/aarch64/quick.txt)" = "$$(tail -n 1 build/kernels/quick.txt)"

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

# Of its own extra only: the API reference is read from the sources, which are not imported.
docs: $(DOCS_VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --config-file - < docs/mkdocs.yml

$(DOCS_VENV)/installed-docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt \
		$$($(PYTHON) -c '$(DOCS_EXTRA)')
	touch $@

installed: $(VENV)/installed-test $(MODEL)

# Two ways to install, and the later one replaces the earlier: each takes the other's stamp away.
# The demo installs what a user would; the tests install in place and follow edits of Python files.
$(VENV)/installed-demo: $(PACKAGING) $(PYTHON_SOURCES) | $(BIN)/python
	rm -f $(VENV)/installed-*
	$(PIP_INSTALL) ".[export,cpu]"
	touch $@

$(VENV)/installed-test: $(PACKAGING) | $(BIN)/python
	rm -f $(VENV)/installed-*
	$(PIP_INSTALL) -e ".[export,cpu,test]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/cmake: | $(BIN)/python
	$(PIP_INSTALL) cmake

$(MODEL): | $(BIN)/python
	$(BIN)/python scripts/fetch_smollm2.py $(MODELS)

clean:
	rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
