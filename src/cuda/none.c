/* In place of the GPU's device where the library is built without it. */
#include "error.h"
#include "ops.h"

static shk_status none(shk_error *err) {
    return shk_fail(err, SHK_E_DEVICE, "no GPU can be used: this was built without CUDA ('make CUDA=1' builds it in)");
}

shk_status shk_cuda_open(const shk_ops **ops, void **dev, shk_error *err) {
    (void)ops, (void)dev;
    return none(err);
}

shk_status shk_cuda_probe(shk_ceilings *out, shk_error *err) {
    (void)out;
    return none(err);
}
