#include "cpu/arm/vec_neon.h"
#include "cpu/vec/conv1d.inc"
