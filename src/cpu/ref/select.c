#include "cpu/tiers.h"

size_t shk_select_ref(uint32_t *ids, const float *x, size_t n, float theta) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if (x[i] > theta) ids[count++] = (uint32_t)i;
    return count;
}
