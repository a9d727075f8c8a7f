#include <stdio.h>

#include "cpu/detect.h"
#include "cpu/kernels.h"

const char *shk_version(void) { return SHK_VERSION; }

shk_status shk_build_info(char *buf, size_t size, shk_error *err) {
    unsigned cpu;
    shk_kernels k;
    shk_status st = shk_cpu_detect(&cpu, err);
    if (st) return st;
    shk_cpu_kernels(&k, cpu);
    snprintf(buf, size, "sparkhawk %s, kernels: %s", SHK_VERSION, k.tier);
    return SHK_OK;
}
