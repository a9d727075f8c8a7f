/* What the tokenizer's fuzz targets share. */
#ifndef SHK_TOKENIZING_H
#define SHK_TOKENIZING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

/* Tokenizes and goes back. `lossless`: the text must come back. */
static void tokenize(const shk_tokenizer *t, const char *text, size_t n, unsigned flags, bool lossless) {
    int32_t *ids;
    char *again;
    size_t n_ids, n_again;
    if (shk_tokenize(t, text, n, flags, &ids, &n_ids, NULL)) {
        if (lossless) abort();
        return;
    }
    if (shk_detokenize(t, ids, n_ids, 1, &again, &n_again, NULL)) abort(); /* all ids are in the vocabulary */
    if (lossless && (n != n_again || (n > 0 && memcmp(text, again, n)))) abort();
    free(ids);
    free(again);
}

static inline void tokenize_samples(const shk_tokenizer *t) {
    static const char *const samples[] = {
        "", " ", "  a b  \n", "the <bos> caf\xc3\xa9 \xef\xac\x81 \xe2\x96\x81\xe2\x96\x81", "\xff\xfe\xe2\x96",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    };
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        tokenize(t, samples[i], strlen(samples[i]), SHK_TOKENIZE_BOS, false);
        tokenize(t, samples[i], strlen(samples[i]) + 1, SHK_TOKENIZE_SPECIAL, false);
    }
}

#endif
