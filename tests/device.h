/* Which devices there are to test. */
#ifndef SHK_TEST_DEVICE_H
#define SHK_TEST_DEVICE_H

#include "ops.h"
#include "test.h"

/* The GPU's table, or NULL: said so, and counted as skipped. */
static inline const shk_ops *test_gpu(void **dev) {
    const shk_ops *ops = NULL;
    shk_error err;
    if (shk_cuda_open(&ops, dev, &err) == SHK_OK) return ops;
    if (getenv("SHK_REQUIRE_GPU")) NEED(false, "%s", err.message);
    SKIP("CUDA: %s", err.message);
    return NULL;
}

/* Whether models run on it, asked once. */
static inline bool test_has(shk_device device) {
    void *dev;
    if (device == SHK_DEVICE_CPU) return true;
    const shk_ops *ops = test_gpu(&dev);
    if (ops) ops->close(dev);
    return ops != NULL;
}

#endif
