/* The parameters of a model as one array of f32, in the order of the table of tensors (model/weights.h): so are their gradients and
 * what an optimizer keeps of each. */
#ifndef SHK_TRAIN_PARAMS_H
#define SHK_TRAIN_PARAMS_H

#include "model/model.h"

enum { SHK_PARAM_ALIGN = 16 }; /* values: each tensor begins at a multiple of 64 bytes */

/* One tensor. In the array it has the form that the ops want: norms with the 1 added, convolutions with the taps first. */
typedef struct shk_param {
    const shk_slot *slot;
    int layer;                    /* -1: of the model itself */
    const char *name;             /* in a checkpoint */
    uint64_t shape[SHK_MAX_DIMS]; /* there */
    unsigned n_dims;
    size_t at, n;                 /* values [at, at + n) of the array */
    bool minus_one;               /* a norm that files have less 1 */
} shk_param;

typedef struct shk_params {
    const shk_config *c;
    shk_param *items; /* [n] */
    size_t n;
    size_t size; /* of the array */
} shk_params;

/* Lists the parameters of the model that m has loaded, under the names of its checkpoint (the published ones, if that is GGUF).
 * Memory comes from m's arena. SHK_E_UNSUPPORTED: a family that cannot be trained. */
shk_status shk_params_list(shk_params *p, shk_model *m, shk_error *err);

/* Whether AdamW shrinks it: matrices alone. */
bool shk_param_decays(const shk_param *p);

/* The matrices and vectors of `w` become views of the array (device memory). Only lambda differs from what inference has there: it
 * is before its softplus. */
shk_status shk_params_bind(const shk_params *p, shk_weights *w, float *array, shk_arena *arena, shk_error *err);

/* Copies the values of m's checkpoint to the array, which is in host memory. */
shk_status shk_params_read(const shk_params *p, float *array, const shk_model *m, shk_error *err);

/* What shk_params_write writes for each parameter: a tensor "PREFIX NAME" of f32 from an array (host memory). */
typedef struct shk_param_source {
    const char *prefix;
    const float *array;
    bool weights;  /* the parameters themselves: norms go back to their file's form */
    bool only_norms; /* no more than those that shk_params_write changes, as they are */
} shk_param_source;
shk_status shk_params_write(const shk_params *p, const char *path, const shk_param_source *sources, size_t n, shk_error *err);
/* Reads such a file back, sources by sources (array: where to). */
shk_status shk_params_restore(const shk_params *p, const char *path, const shk_param_source *sources, size_t n, shk_error *err);

/* The first value that is not finite: its index, or SIZE_MAX. */
size_t shk_params_not_finite(const shk_params *p, const float *array, const shk_param **which);

#endif
