# Sparkhawk.  make, make run, make check, make install;  CC=clang  SAN=address,undefined  FUZZ=1  WERROR=1  CUDA=1|emulated  MPI=1  NCCL=1
AR      ?= ar
PREFIX  ?= /usr/local
BUILD   ?= build$(if $(FUZZ),/fuzz,$(if $(SAN),/san,$(addprefix /,$(patsubst 1,cuda,$(filter 1 emulated,$(CUDA))))))
PROMPT  ?= Once upon a time
OPTIONS ?= --temp 0.7 --top-p 0.9 --max-tokens 128
ifdef FUZZ
CC       = clang
SAN      = address,undefined,fuzzer-no-link
endif
VERSION := $(shell sed -n 's/.*SHK_VERSION "\(.*\)"/\1/p' include/sparkhawk.h)

CFLAGS  ?= -O2 -g
WARN     = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-missing-field-initializers $(if $(WERROR),-Werror)
SANFLAGS = $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
# contraction off: every tier says itself where it fuses a multiply and an add; nobody looks at floating-point exceptions
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE= $(CFLAGS) $(WARN) $(SANFLAGS) -ffp-contract=off -fno-trapping-math -fPIC -fvisibility=hidden -pthread -Iinclude -Isrc -MMD -MP
LIBS     = -ljansson -lm -pthread
PROGRAM_LIBS = -ledit -lmicrohttpd

ARCH    := $(shell $(CC) -dumpmachine 2>/dev/null | cut -d- -f1)
SRC     := $(wildcard src/*.c src/file/*.c src/text/*.c src/grammar/*.c src/model/*.c src/train/*.c src/cpu/*.c src/cpu/ref/*.c)
SRC     += $(filter-out src/comm/mpi.c src/comm/nccl.c,$(wildcard src/comm/*.c))
SRC     += $(if $(filter x86_64,$(ARCH)),$(wildcard src/cpu/x86/*.c))
SRC     += $(if $(filter aarch64,$(ARCH)),$(wildcard src/cpu/arm/*.c))

# CUDA=1: machine code for the GPUs that nvcc knows from sm_75 on, and PTX of the last for later ones. Not under sanitizers, whose
# shadow memory lies where the driver maps
ifeq ($(CUDA)$(SAN),1)
NVCC    ?= $(or $(shell command -v nvcc),/usr/local/cuda/bin/nvcc)
ARCHS   ?= $(filter 75 80 86 89 90 100 120,$(shell $(NVCC) --list-gpu-code | tr -d a-z_))
GPU     := $(filter-out src/cuda/none.c,$(wildcard src/cuda/*.cu src/cuda/*.c))
LIBS    += -L$(dir $(NVCC))../lib64 -Wl,-rpath,$(abspath $(dir $(NVCC))../lib64) -lcudart_static -lcublasLt -ldl -lrt
NVCCFLAGS = -std=c++20 -O3 -Iinclude -Isrc -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-threadsafe-statics -MMD -MP \
            $(foreach a,$(ARCHS),-gencode arch=compute_$a,code=sm_$a) -gencode arch=compute_$(lastword $(ARCHS)),code=compute_$(lastword $(ARCHS))
else ifeq ($(CUDA)$(SAN),emulated)
# the kernels as C++ over tests/emulator: a GPU for tests where there is none
GPU     := $(filter-out src/cuda/none.c,$(wildcard src/cuda/*.cu src/cuda/*.c tests/emulator/*.cpp))
LIBS    += -lstdc++ -lubsan
$(BUILD)/%.o: %.cpp
	@mkdir -p $(@D)
	$(EMULATED) -c -o $@ $<
NVCC     = $(EMULATED) -x c++
EMULATED = $(CXX) -std=c++20 $(CFLAGS) -O3 -Wall -Wno-unused-function -Wno-unknown-pragmas -Wno-sign-compare -Wno-parentheses -Wno-deprecated-enum-enum-conversion $(if $(WERROR),-Werror) \
           -fsanitize=alignment,bounds -fno-sanitize-recover=all -ffp-contract=off -fno-strict-aliasing -fPIC -fvisibility=hidden -pthread \
           -D__CUDACC__ -Itests/emulator -Iinclude -Isrc -MMD -MP
else
GPU     := src/cuda/none.c
endif
OBJ     := $(patsubst %,$(BUILD)/%.o,$(basename $(SRC) $(GPU)))

all: $(BUILD)/sparkhawk $(BUILD)/libsparkhawk.so

$(BUILD)/libsparkhawk.a: $(OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libsparkhawk.so: $(OBJ)
	$(CC) $(SANFLAGS) -shared -Wl,-soname,libsparkhawk.so.0 -o $@ $^ $(LIBS)

PROGRAM := $(patsubst %.c,$(BUILD)/%.o,$(wildcard programs/*.c programs/server/*.c))
$(BUILD)/sparkhawk: $(PROGRAM) $(BUILD)/libsparkhawk.a
	$(CC) $(SANFLAGS) -o $@ $^ $(PROGRAM_LIBS) $(LIBS)
$(PROGRAM): private ALL_CFLAGS += -Iprograms
# the page of `sparkhawk serve` lies in the program as it stands there
$(BUILD)/programs/server/page.o: $(wildcard programs/server/page/*)

# MPI=1: beside the program the same for several processes, which differs in one object: mpi.o stands before the library, which is
# then not asked for no_mpi.o. NCCL=1, with CUDA=1: their GPUs too, and nccl.o in the same way
ifneq ($(filter 1,$(MPI) $(NCCL)),)
MPICC   ?= mpicc
CUDA_HOME = $(dir $(NVCC))..
COMM    := $(BUILD)/src/comm/mpi.o $(if $(filter 1,$(NCCL)),$(BUILD)/src/comm/nccl.o)
$(COMM): private ALL_CFLAGS += $(patsubst -I%,-isystem %,$(shell $(MPICC) --showme:compile)) $(if $(filter 1,$(CUDA)),-isystem $(CUDA_HOME)/include)
$(BUILD)/mpi/sparkhawk: $(COMM) $(PROGRAM) $(BUILD)/libsparkhawk.a
	@mkdir -p $(@D)
	$(CC) $(SANFLAGS) -o $@ $^ $(PROGRAM_LIBS) $(LIBS) $(if $(filter 1,$(NCCL)),-lnccl) $(shell $(MPICC) --showme:link)
all: $(BUILD)/mpi/sparkhawk
endif

# the suffix of a file's name picks its instruction set; nothing else gets -m flags
$(BUILD)/%_avx2.o: ISA = -mavx2 -mfma -mf16c
$(BUILD)/%_avx512.o: ISA = $(AVX512)
AVX512 = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
$(BUILD)/%_avx512vnni.o: ISA = -mavx512vnni $(AVX512)
$(BUILD)/%_avx512bf16.o: ISA = -mavx512bf16 -mavx512vnni $(AVX512)
$(BUILD)/%_amx.o: ISA = -mamx-tile -mamx-int8 -mamx-bf16 -mavx512vnni $(AVX512)
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(ISA) -c -o $@ $<

$(BUILD)/%.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVCCFLAGS) -c -o $@ $<

# a test is a file: one program each, all over the static library
TESTS   := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/*.c tests/kernels/*.c tests/ops/*.c tests/golden/*.c))
FUZZERS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/*.c))
$(FUZZERS:=.o): private ALL_CFLAGS += $(if $(FUZZ),-DFUZZ)
$(FUZZERS): private SANFLAGS += $(if $(FUZZ),-fsanitize=fuzzer)
$(filter-out $(BUILD)/tests/kernels/%,$(TESTS)) $(FUZZERS): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libsparkhawk.a
	$(CC) $(SANFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS)

$(BUILD)/tests/fuzz/request.o: private ALL_CFLAGS += -Iprograms
$(BUILD)/tests/fuzz/request: $(BUILD)/programs/server/request.o

# benchmarks are built too, so that they stay in step
tests: all $(TESTS) $(FUZZERS) $(addprefix $(BUILD)/bench/,resume sparse $(if $(filter x86_64,$(ARCH)),union))

check:
	tests/run

# everything that `make run` needs, down to the compiler and the model, is fetched where it is missing
export PROMPT MODEL
run:
	tools/install_deps.sh run
	$(MAKE) -s -j$$(nproc) $(BUILD)/sparkhawk
	model=$${MODEL:-$$(tools/fetch_model.py || { echo "taking the small model in models/" >&2; echo models/sparkhawk-stories-q4_0.gguf; })} && $(BUILD)/sparkhawk run $(OPTIONS) -m "$$model" -p "$$PROMPT"

D = $(DESTDIR)$(PREFIX)
install: all
	install -D -m 755 $(BUILD)/$(if $(COMM),mpi/)sparkhawk $D/bin/sparkhawk
	install -D -m 644 include/sparkhawk.h $D/include/sparkhawk.h
	install -D -m 644 include/sparkhawk_train.h $D/include/sparkhawk_train.h
	install -D -m 644 $(BUILD)/libsparkhawk.a $D/lib/libsparkhawk.a
	install -D -m 755 $(BUILD)/libsparkhawk.so $D/lib/libsparkhawk.so.$(VERSION)
	ln -sf libsparkhawk.so.$(VERSION) $D/lib/libsparkhawk.so.0
	ln -sf libsparkhawk.so.0 $D/lib/libsparkhawk.so
	install -D -m 644 docs/sparkhawk.1 $D/share/man/man1/sparkhawk.1
	install -d $D/lib/pkgconfig $D/share/bash-completion/completions $D/share/zsh/site-functions $D/share/fish/vendor_completions.d
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' tools/sparkhawk.pc.in > $D/lib/pkgconfig/sparkhawk.pc
	$(BUILD)/sparkhawk help --completion bash > $D/share/bash-completion/completions/sparkhawk
	$(BUILD)/sparkhawk help --completion zsh > $D/share/zsh/site-functions/_sparkhawk
	$(BUILD)/sparkhawk help --completion fish > $D/share/fish/vendor_completions.d/sparkhawk.fish
	$(if $(DESTDIR),,-ldconfig)

uninstall:
	cd $D && rm -f bin/sparkhawk include/sparkhawk.h include/sparkhawk_train.h lib/libsparkhawk.a lib/libsparkhawk.so lib/libsparkhawk.so.* lib/pkgconfig/sparkhawk.pc \
	    share/man/man1/sparkhawk.1 share/bash-completion/completions/sparkhawk share/zsh/site-functions/_sparkhawk \
	    share/fish/vendor_completions.d/sparkhawk.fish

# kernel tests link what kernels need and no more, so that they build where there is nothing but a compiler
KERNELS      := src/error.c src/mem.c src/file/types.c $(wildcard src/file/quant_*.c) $(filter-out src/cpu/ops%,$(filter src/cpu/%,$(SRC)))
KERNEL_TESTS := $(filter $(BUILD)/tests/kernels/%,$(TESTS))
$(KERNEL_TESTS) $(BUILD)/bench/kernels: $(BUILD)/%: $(BUILD)/%.o $(KERNELS:%.c=$(BUILD)/%.o)
	$(CC) $(SANFLAGS) -o $@ $^ -lm -pthread

check-kernels: $(KERNEL_TESTS)
	@for t in $^; do timeout 300 $(EMULATOR) $$t || echo "$$t failed"; done | awk '/^[0-9]+ passed/ { p += $$1; f += $$3; s += $$5; next } \
	    { print } / failed$$/ { bad = 1 } END { print p + 0 " passed, " f + 0 " failed, " s + 0 " skipped"; exit bad }'

check-neon:
	@SHK_REQUIRE_ISA=neon $(MAKE) CC=aarch64-linux-gnu-gcc BUILD=$(BUILD)/neon EMULATOR="qemu-aarch64 -L /usr/aarch64-linux-gnu" check-kernels

# random weights of published sizes (3 GB each, made once): Spark beside the dense model of its size, and a fixed-size state's depth
BENCH := $(BUILD)/bench
bench: all
	mkdir -p $(BENCH)
	for p in gemma2-2b spark-gemma2-2b recurrentgemma-2b; do \
	    [ -f $(BENCH)/$$p.gguf ] || $(BUILD)/sparkhawk init $$p -o $(BENCH)/$$p.gguf --type q8_0 || exit; done
	$(BUILD)/sparkhawk bench -m $(BENCH)/spark-gemma2-2b.gguf --vs $(BENCH)/gemma2-2b.gguf --prefill 256 -n 16 -d "0 4096"
	$(BUILD)/sparkhawk bench -m $(BENCH)/recurrentgemma-2b.gguf --prefill 0 -n 16 -d "0 4096 1000000"

bench-kernels: $(BUILD)/bench/kernels
	$<

# sparse layers in each form, on a CPU
$(BUILD)/bench/sparse: $(BUILD)/bench/sparse.o $(BUILD)/libsparkhawk.a
	$(CC) $(SANFLAGS) -o $@ $^ $(LIBS)

# ... and by the union of a tile's active neurons, on x86
UNION := $(patsubst %.c,$(BUILD)/%.o,$(wildcard bench/union*.c))
$(BUILD)/bench/union: $(UNION) $(BUILD)/libsparkhawk.a
	$(CC) $(SANFLAGS) -o $@ $^ $(LIBS)

# how long a text of any length takes to go on: bench/serve_resume.py
$(BUILD)/bench/resume.o: private ALL_CFLAGS += -Iprograms
$(BUILD)/bench/resume: $(BUILD)/bench/resume.o $(BUILD)/programs/server/cache_files.o $(BUILD)/libsparkhawk.a
	$(CC) $(SANFLAGS) -o $@ $^ $(LIBS)
-include $(BUILD)/bench/kernels.d $(BUILD)/bench/sparse.d $(UNION:.o=.d) $(BUILD)/bench/resume.d

# of a GPU: make CUDA=1 bench-train
$(BUILD)/bench/train_ops: $(BUILD)/bench/train_ops.o $(BUILD)/libsparkhawk.a
	$(CC) $(SANFLAGS) -o $@ $^ $(LIBS)
bench-train: $(BUILD)/bench/train_ops
	$<
-include $(BUILD)/bench/train_ops.d

clean:
	rm -rf $(BUILD)

.PHONY: all tests check check-kernels check-neon bench bench-kernels bench-train run install uninstall clean
-include $(OBJ:.o=.d) $(COMM:.o=.d) $(PROGRAM:.o=.d) $(TESTS:=.d) $(FUZZERS:=.d)
