/* In place of mpi.c. */
#include "comm/comm.h"

shk_status shk_comm_join_mpi(shk_comm *c, shk_error *err) {
    (void)c;
    return shk_fail(err, SHK_E_UNSUPPORTED, "started as one of several processes, but built without MPI (make MPI=1)");
}
