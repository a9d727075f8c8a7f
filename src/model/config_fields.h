/* The scalar fields of a config, with their names in both kinds of file: reading, range checks and writing go by this table. */
#ifndef SHK_MODEL_CONFIG_FIELDS_H
#define SHK_MODEL_CONFIG_FIELDS_H

#include "model/config.h"

/* Families as bits, for the tables of fields and of tensors. */
enum {
    G1 = 1 << SHK_GEMMA, G2 = 1 << SHK_GEMMA2, G3 = 1 << SHK_GEMMA3, G3N = 1 << SHK_GEMMA3N, RG = 1 << SHK_RECURRENT_GEMMA,
    SH = 1 << SHK_NATIVE, GEMMAS = G1 | G2 | G3 | G3N, ALL = GEMMAS | RG | SH
};

typedef enum shk_field_kind { SHK_FIELD_U32, SHK_FIELD_REAL, SHK_FIELD_BOOL, SHK_FIELD_ID } shk_field_kind;

typedef struct shk_field {
    shk_field_kind kind;
    size_t at;             /* offset in shk_config */
    const char *json;      /* key of config.json; NULL: handled by hand */
    const char *json_rg;   /* recurrent_gemma's key where it has another */
    const char *gguf;      /* key of GGUF after "ARCHITECTURE.", or from "tokenizer." on; NULL: derived */
    double min, max;
    unsigned families;     /* bits (1 << shk_family): who has it */
} shk_field;

extern const shk_field shk_config_fields[];
extern const size_t shk_config_n_fields;

/* Stores a number that has been read, checking its range. */
shk_status shk_field_store(shk_config *c, const shk_field *f, const char *name, double value, shk_error *err);
double shk_field_load(const shk_config *c, const shk_field *f);

#endif
