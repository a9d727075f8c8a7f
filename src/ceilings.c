/* The ceilings of the device that is asked for. */
#include "error.h"
#include "ops.h"

shk_status shk_probe(shk_ceilings *out, shk_device device, int threads, shk_error *err) {
    return device == SHK_DEVICE_CUDA ? shk_cuda_probe(out, err) : shk_cpu_probe(out, threads, err);
}
