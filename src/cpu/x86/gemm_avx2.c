#include "cpu/x86/vec_avx2.h"
#include "cpu/vec/gemm.inc"
