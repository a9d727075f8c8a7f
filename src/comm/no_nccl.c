/* In place of nccl.c. */
#include "comm/comm.h"

shk_status shk_comm_join_nccl(shk_comm *c, shk_error *err) {
    return shk_fail(err, SHK_E_UNSUPPORTED, "%d processes on GPUs: built without NCCL (make CUDA=1 NCCL=1)", c->size);
}
