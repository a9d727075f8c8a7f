#include "cpu/tiers.h"

double shk_probe_fma_ref(float *sink, size_t rounds) {
    float a[4] = { 0, 1, 2, 3 }, x = sink[0];
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < 4; i++) a[i] = a[i] * x + 1e-9f;
    sink[0] = a[0] + a[1] + a[2] + a[3];
    return 8.0 * (double)rounds;
}

void shk_probe_read_ref(float *sink, const void *data, size_t n) {
    const unsigned char *p = data;
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) sum += p[i];
    sink[0] = (float)sum;
}
