#include "cpu/x86/vec_avx512.h"
#include "cpu/vec/gemm.inc"
