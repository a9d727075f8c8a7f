/* Named configurations. */
#ifndef SHK_MODEL_PRESETS_H
#define SHK_MODEL_PRESETS_H

#include "model/config.h"

/* *found says whether `name` is a preset; only then is *c filled. */
shk_status shk_preset_read(shk_config *c, const char *name, bool *found, shk_error *err);

#endif
