#include <stdlib.h>
#include <string.h>

#include "file/writer.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

static bool charsmap_write(const shk_tokenizer *t, shk_buffer *out) {
    uint32_t bytes = (uint32_t)(t->n_trie * sizeof *t->trie);
    return !t->trie || (shk_buffer_append(out, &bytes, sizeof bytes) && shk_buffer_append(out, t->trie, bytes) &&
                        shk_buffer_append(out, t->rewritten, t->n_rewritten));
}

/* ---- GGUF ---- */

/* Strings that are made one after the other: their bytes, and where each ends. */
typedef struct strings {
    shk_buffer bytes;
    shk_str *v;
    size_t n;
} strings;

static void end_string(strings *s, size_t begin) { s->v[s->n++].n = s->bytes.n - begin; }

static void put_strings(strings *s, shk_gguf_meta *m, const char *key) {
    const char *at = s->bytes.data;
    for (size_t i = 0; i < s->n; at += s->v[i++].n) s->v[i].data = at;
    shk_gguf_put_strs(m, key, s->v, s->n);
}

/* User pieces have real spaces in GGUF. */
static bool put_pieces(const shk_tokenizer *t, shk_gguf_meta *m) {
    strings s = { .v = shk_calloc((size_t)t->n, sizeof *s.v) };
    int32_t *types = shk_calloc((size_t)t->n, sizeof *types);
    bool ok = s.v && types;
    for (int32_t id = 0; id < t->n && ok; id++) {
        size_t begin = s.bytes.n;
        types[id] = t->type[id];
        ok = shk_piece_write(t, id, t->type[id] != SHK_PIECE_USER, &s.bytes);
        end_string(&s, begin);
    }
    if (ok) put_strings(&s, m, "tokenizer.ggml.tokens");
    if (ok) shk_gguf_put_f32s(m, "tokenizer.ggml.scores", t->score, (size_t)t->n);
    if (ok) shk_gguf_put_i32s(m, "tokenizer.ggml.token_type", types, (size_t)t->n);
    shk_buffer_free(&s.bytes);
    free(s.v);
    free(types);
    return ok;
}

static bool put_merges(const shk_tokenizer *t, shk_gguf_meta *m) {
    const shk_merge **sorted = shk_calloc(t->n_merges, sizeof *sorted);
    strings s = { .v = shk_calloc(t->n_merges, sizeof *s.v) };
    bool ok = sorted && s.v;
    for (size_t i = 0; i <= t->merge_mask && ok; i++)
        if (t->merges[i].rank_1) sorted[t->merges[i].rank_1 - 1] = &t->merges[i];
    for (size_t i = 0; i < t->n_merges && ok; i++) {
        size_t begin = s.bytes.n;
        ok = shk_piece_write(t, sorted[i]->left, true, &s.bytes) && shk_buffer_append(&s.bytes, " ", 1) &&
             shk_piece_write(t, sorted[i]->right, true, &s.bytes);
        end_string(&s, begin);
    }
    if (ok) put_strings(&s, m, "tokenizer.ggml.merges");
    shk_buffer_free(&s.bytes);
    free(s.v);
    free(sorted);
    return ok;
}

static bool put_charsmap(const shk_tokenizer *t, shk_gguf_meta *m) {
    shk_buffer b = { 0 };
    bool ok = charsmap_write(t, &b);
    if (ok && b.n > 0)
        shk_gguf_put_copy(m, &(shk_meta){ .key = "tokenizer.ggml.precompiled_charsmap", .type = SHK_META_ARRAY, .elem = SHK_META_U8,
                                          .n = b.n, .n_bytes = b.n, .data = (const uint8_t *)b.data });
    shk_buffer_free(&b);
    return ok;
}

bool shk_tokenizer_to_gguf(const shk_tokenizer *t, shk_gguf_meta *m) {
    const struct { const char *key; int32_t id; } ids[] = {
        { "tokenizer.ggml.bos_token_id", t->bos },     { "tokenizer.ggml.eos_token_id", t->eos },
        { "tokenizer.ggml.unknown_token_id", t->unk }, { "tokenizer.ggml.padding_token_id", t->pad },
        { "tokenizer.ggml.eot_token_id", t->eot }
    };
    shk_gguf_put_str(m, "tokenizer.ggml.model", t->algorithm == SHK_UNIGRAM ? "t5" : "llama");
    shk_gguf_put_str(m, "tokenizer.ggml.pre", "default");
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) /* a key that is not there stands for a default, so none is said too */
        if (ids[i].id >= 0 || i < 3) shk_gguf_put_u32(m, ids[i].key, (uint32_t)ids[i].id);
    shk_gguf_put_bool(m, "tokenizer.ggml.add_bos_token", t->add_bos);
    shk_gguf_put_bool(m, "tokenizer.ggml.add_eos_token", false);
    shk_gguf_put_bool(m, "tokenizer.ggml.add_space_prefix", t->add_space);
    shk_gguf_put_bool(m, "tokenizer.ggml.remove_extra_whitespaces", t->squeeze);
    if (!t->escape) shk_gguf_put_bool(m, "tokenizer.ggml.escape_whitespaces", false);
    bool listed = t->algorithm == SHK_BPE_MERGES && !shk_merges_follow_scores(t);
    return put_pieces(t, m) && put_charsmap(t, m) && (!listed || put_merges(t, m));
}

/* ---- tokenizer.model; the fields are listed in from_model.c ---- */

static bool put_varint(shk_buffer *b, uint64_t value) {
    uint8_t bytes[10];
    size_t n = 0;
    for (; value >= 0x80; value >>= 7) bytes[n++] = (uint8_t)(value | 0x80);
    bytes[n++] = (uint8_t)value;
    return shk_buffer_append(b, bytes, n);
}

static bool put_int(shk_buffer *b, unsigned field, int64_t value) {
    return put_varint(b, field << 3) && put_varint(b, (uint64_t)value);
}

static bool put_bytes(shk_buffer *b, unsigned field, const shk_buffer *value) {
    return put_varint(b, field << 3 | 2) && put_varint(b, value->n) && shk_buffer_append(b, value->data, value->n);
}

static bool write_piece(const shk_tokenizer *t, int32_t id, shk_buffer *scratch, shk_buffer *message, shk_buffer *out) {
    scratch->n = message->n = 0;
    return shk_piece_write(t, id, true, scratch) && put_bytes(message, 1, scratch) && put_varint(message, 2 << 3 | 5) &&
           shk_buffer_append(message, &t->score[id], 4) && put_int(message, 3, t->type[id]) && put_bytes(out, 1, message);
}

static bool write_trainer(const shk_tokenizer *t, shk_buffer *scratch, shk_buffer *message, shk_buffer *out) {
    const struct { unsigned id_field, name_field; int32_t id; } specials[] = {
        { 40, 45, t->unk }, { 41, 46, t->bos }, { 42, 47, t->eos }, { 43, 48, t->pad }
    };
    message->n = 0;
    bool ok = put_int(message, 3, t->algorithm == SHK_UNIGRAM ? 1 : 2) && put_int(message, 4, t->n) &&
              put_int(message, 35, t->byte_id[0] >= 0);
    for (size_t i = 0; i < sizeof specials / sizeof *specials && ok; i++) {
        ok = put_int(message, specials[i].id_field, specials[i].id);
        if (!ok || specials[i].id < 0) continue;
        scratch->n = 0;
        ok = shk_piece_write(t, specials[i].id, true, scratch) && put_bytes(message, specials[i].name_field, scratch);
    }
    return ok && put_bytes(out, 2, message);
}

static bool write_normalizer(const shk_tokenizer *t, shk_buffer *scratch, shk_buffer *message, shk_buffer *out) {
    scratch->n = message->n = 0;
    return charsmap_write(t, scratch) && put_bytes(message, 2, scratch) && put_int(message, 3, t->add_space) &&
           put_int(message, 4, t->squeeze) && put_int(message, 5, t->escape) && put_bytes(out, 3, message);
}

shk_status shk_tokenizer_write_model(const shk_tokenizer *t, const char *path, shk_error *err) {
    shk_buffer scratch = { 0 }, message = { 0 }, out = { 0 };
    shk_status status = SHK_OK;
    if (t->unk < 0) return shk_fail(err, SHK_E_UNSUPPORTED, "%s: a tokenizer.model needs an unknown token", path);
    if (t->algorithm == SHK_BPE_MERGES && !shk_merges_follow_scores(t))
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: a tokenizer.model cannot hold this list of merges", path);
    bool ok = true;
    for (int32_t id = 0; id < t->n && ok; id++) ok = write_piece(t, id, &scratch, &message, &out);
    ok = ok && write_trainer(t, &scratch, &message, &out) && write_normalizer(t, &scratch, &message, &out);
    status = ok ? shk_write_file(path, out.data, out.n, err) : shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
    shk_buffer_free(&scratch);
    shk_buffer_free(&message);
    shk_buffer_free(&out);
    return status;
}
