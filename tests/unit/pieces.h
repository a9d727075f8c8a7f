/* A vocabulary small enough to merge in one's head, and a GGUF file of it. Include scratch.h first. */
#ifndef SHK_PIECES_H
#define SHK_PIECES_H

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef struct row {
    const char *text;
    shk_piece_type type;
    float score;
} row;

enum {
    PAD, EOS, BOS, UNK, START, END, NL, NLNL, TWO_SPACES, BYTES,
    A = BYTES + 256, B, C, SPACE, AB, BC, ABC, SPACE_A, AA, AAA, CAB, N_ROWS
};

/* The rows but for the bytes' scores, which nothing looks at. */
static const row rows[N_ROWS] = {
    [PAD] = { "<pad>", SHK_PIECE_CONTROL, 0 },
    [EOS] = { "<eos>", SHK_PIECE_CONTROL, 0 },
    [BOS] = { "<bos>", SHK_PIECE_CONTROL, 0 },
    [UNK] = { "<unk>", SHK_PIECE_UNKNOWN, 0 },
    [START] = { "<start_of_turn>", SHK_PIECE_CONTROL, 0 },
    [END] = { "<end_of_turn>", SHK_PIECE_USER, 0 }, /* as some files have it */
    [NL] = { "\n", SHK_PIECE_USER, 0 },
    [NLNL] = { "\n\n", SHK_PIECE_USER, 0 },
    [TWO_SPACES] = { "  ", SHK_PIECE_USER, 0 },
    [A] = { "a", SHK_PIECE_NORMAL, -20 },
    [B] = { "b", SHK_PIECE_NORMAL, -21 },
    [C] = { "c", SHK_PIECE_NORMAL, -22 },
    [SPACE] = { "\xe2\x96\x81", SHK_PIECE_NORMAL, -23 },
    [AB] = { "ab", SHK_PIECE_NORMAL, -1 },
    [BC] = { "bc", SHK_PIECE_NORMAL, -2 },
    [ABC] = { "abc", SHK_PIECE_NORMAL, -3 },
    [SPACE_A] = { "\xe2\x96\x81" "a", SHK_PIECE_NORMAL, -4 },
    [AA] = { "aa", SHK_PIECE_NORMAL, -5 },
    [AAA] = { "aaa", SHK_PIECE_NORMAL, -6 },
    [CAB] = { "cab", SHK_PIECE_NORMAL, -0.5f },
};

/* Text and type of a row as the files have it; text is good until the next call but one. */
static row row_at(int id) {
    static char names[2][8];
    if (id < BYTES || id >= BYTES + 256) return rows[id];
    char *name = names[id & 1];
    snprintf(name, sizeof names[0], "<0x%02X>", id - BYTES);
    return (row){ name, SHK_PIECE_BYTE, 0 };
}

static inline void put_rows(shk_gguf_meta *m) {
    static char names[N_ROWS][24];
    shk_str tokens[N_ROWS];
    float scores[N_ROWS];
    int32_t types[N_ROWS];
    for (int i = 0; i < N_ROWS; i++) {
        row r = row_at(i);
        snprintf(names[i], sizeof names[i], "%s", r.text);
        tokens[i] = (shk_str){ names[i], strlen(names[i]) };
        scores[i] = r.score, types[i] = (int32_t)r.type;
    }
    shk_gguf_put_str(m, "tokenizer.ggml.model", "llama");
    shk_gguf_put_strs(m, "tokenizer.ggml.tokens", tokens, N_ROWS);
    shk_gguf_put_f32s(m, "tokenizer.ggml.scores", scores, N_ROWS);
    shk_gguf_put_i32s(m, "tokenizer.ggml.token_type", types, N_ROWS);
    shk_gguf_put_u32(m, "tokenizer.ggml.bos_token_id", BOS);
    shk_gguf_put_u32(m, "tokenizer.ggml.eos_token_id", EOS);
    shk_gguf_put_u32(m, "tokenizer.ggml.unknown_token_id", UNK);
    shk_gguf_put_bool(m, "tokenizer.ggml.add_space_prefix", false);
}

/* Writes the metadata, frees them and loads what was written. */
static inline shk_status load_meta(shk_tokenizer **t, shk_gguf_meta *m, shk_error *err) {
    const char *path = scratch("pieces.gguf");
    shk_status status = shk_gguf_write(path, m, NULL, 0, NULL, NULL, err);
    shk_gguf_meta_free(m);
    *t = NULL;
    return status ? status : shk_tokenizer_load(t, path, err);
}

static inline shk_tokenizer *load_rows(void) {
    shk_gguf_meta *m = shk_gguf_meta_new();
    shk_tokenizer *t;
    shk_error err = { 0 };
    put_rows(m);
    NEED(load_meta(&t, m, &err) == SHK_OK, "%s", err.message);
    return t;
}

/* Whether the text has these ids and, if `back`, the ids give the text. */
static inline bool gives(const shk_tokenizer *t, const char *text, size_t n, unsigned flags, const int32_t *want, size_t n_want,
                         bool back) {
    int32_t *ids;
    char *again;
    size_t n_ids, n_again;
    if (shk_tokenize(t, text, n, flags, &ids, &n_ids, NULL)) return false;
    bool ok = n_ids == n_want && (n_want == 0 || memcmp(ids, want, n_want * sizeof *ids) == 0);
    if (!ok) {
        fprintf(stderr, "ids:");
        for (size_t i = 0; i < n_ids; i++) fprintf(stderr, " %d", ids[i]);
        fprintf(stderr, "\n");
    }
    if (shk_detokenize(t, ids, n_ids, 0, &again, &n_again, NULL)) ok = false;
    else {
        if (back) ok = ok && n == n_again && memcmp(text, again, n) == 0;
        free(again);
    }
    free(ids);
    return ok;
}

/* The call fails with this status and leaves a message in `err` that has these words. */
#define CHECK_FAILS(call, status, words) CHECK((call) == (status) && strstr(err.message, words), "%s", err.message)

/* CHECK_IDS(tokenizer, "text", flags, back, id...) */
#define CHECK_IDS(t, text, flags, back, ...)                                                                                  \
    do {                                                                                                                      \
        const int32_t want_[] = { __VA_ARGS__ };                                                                              \
        CHECK(gives(t, text, sizeof(text) - 1, flags, want_, sizeof want_ / sizeof *want_, back), "%s", text);                \
    } while (0)

#endif
