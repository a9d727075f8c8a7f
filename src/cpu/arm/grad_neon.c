#include "cpu/arm/vec_neon.h"
#include "cpu/vec/grad.inc"
