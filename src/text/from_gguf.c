/* tokenizer.ggml.*: model "llama" is BPE by scores, "t5" is unigram; the same pieces, types and scores as in a
 * tokenizer.model. */
#include <string.h>

#include "text/tokenizer.h"
#include "text/vocab.h"

static const shk_meta *find(const shk_gguf *g, const char *name) {
    char key[96] = "tokenizer.ggml.";
    strncat(key, name, sizeof key - strlen(key) - 1);
    return shk_gguf_find(g, key);
}

static shk_status get_id(const shk_gguf *g, const char *name, int32_t fallback, int32_t *out, shk_error *err) {
    const shk_meta *m = find(g, name);
    int64_t id;
    *out = fallback;
    if (!m) return SHK_OK;
    if (!shk_meta_int(m, &id)) return shk_fail(err, SHK_E_FORMAT, "%s: %s is not an integer", g->path, m->key);
    if (id == -1 || id == UINT32_MAX) return *out = SHK_NO_ID, SHK_OK;
    if (id < 0 || id > INT32_MAX) return shk_fail(err, SHK_E_FORMAT, "%s: %s is %jd", g->path, m->key, (intmax_t)id);
    *out = (int32_t)id;
    return SHK_OK;
}

static shk_status get_bool(const shk_gguf *g, const char *name, bool fallback, bool *out, shk_error *err) {
    const shk_meta *m = find(g, name);
    int64_t value = fallback;
    if (m && (m->type != SHK_META_BOOL || !shk_meta_int(m, &value)))
        return shk_fail(err, SHK_E_FORMAT, "%s: %s is not a bool", g->path, m->key);
    *out = value;
    return SHK_OK;
}

static bool is(shk_str s, const char *text) { return s.n == strlen(text) && memcmp(s.data, text, s.n) == 0; }

static bool has_tokenizer(const shk_meta *model) {
    shk_str s;
    return model && !(shk_meta_str(model, &s) && (is(s, "none") || is(s, "no_vocab")));
}

static shk_status get_algorithm(const shk_gguf *g, const shk_meta *model, shk_algorithm *out, shk_error *err) {
    shk_str s;
    if (!shk_meta_str(model, &s)) return shk_fail(err, SHK_E_FORMAT, "%s: %s is not a string", g->path, model->key);
    if (is(s, "llama")) *out = SHK_BPE_SCORES;
    else if (is(s, "t5")) *out = SHK_UNIGRAM;
    else
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: %s is \"%.*s\"; supported are \"llama\" and \"t5\"", g->path, model->key,
                        (int)(s.n < 64 ? s.n : 64), s.data);
    return SHK_OK;
}

/* An array that has one element for each piece, or is not there. */
static shk_status get_column(const shk_gguf *g, const char *name, uint64_t n, const shk_meta **out, shk_error *err) {
    const shk_meta *m = *out = find(g, name);
    if (!m || (m->type == SHK_META_ARRAY && m->n == n)) return SHK_OK;
    return shk_fail(err, SHK_E_FORMAT, "%s: %s is not an array of %ju, as many as there are tokens", g->path, m->key, (uintmax_t)n);
}

static shk_status add_pieces(shk_tokenizer *t, const shk_gguf *g, shk_error *err) {
    const shk_meta *tokens = find(g, "tokens"), *scores, *types;
    shk_status status;
    if (!tokens || tokens->type != SHK_META_ARRAY || tokens->elem != SHK_META_STRING)
        return shk_fail(err, SHK_E_FORMAT, "%s: tokenizer.ggml.tokens is not there, or not an array of strings", g->path);
    status = get_column(g, "scores", tokens->n, &scores, err);
    if (!status) status = get_column(g, "token_type", tokens->n, &types, err);
    if (!status && !scores) status = shk_fail(err, SHK_E_FORMAT, "%s: tokenizer.ggml.scores is not there", g->path);
    if (!status) status = shk_vocab_reserve(t, (size_t)tokens->n, g->path, err);
    const uint8_t *at = tokens->data;
    for (uint64_t i = 0; i < tokens->n && !status; i++) {
        shk_str piece = shk_meta_next_str(&at);
        double score;
        int64_t type = SHK_PIECE_NORMAL;
        if (!shk_meta_real_at(scores, i, &score)) return shk_fail(err, SHK_E_FORMAT, "%s: %s has no numbers", g->path, scores->key);
        if (types && !shk_meta_int_at(types, i, &type))
            return shk_fail(err, SHK_E_FORMAT, "%s: %s has no integers", g->path, types->key);
        if (type == 0) type = SHK_PIECE_NORMAL; /* "undefined" */
        status = shk_vocab_add(t, piece.data, piece.n, type, score, g->path, err);
    }
    return status;
}

static shk_status get_properties(shk_tokenizer *t, const shk_gguf *g, shk_error *err) {
    bool bpe = t->algorithm == SHK_BPE_SCORES;
    const struct { const char *name; int32_t fallback, *out; } ids[] = {
        { "bos_token_id", bpe ? 1 : -1, &t->bos }, { "eos_token_id", bpe ? 2 : 1, &t->eos },
        { "unknown_token_id", bpe ? 0 : 2, &t->unk }, { "padding_token_id", -1, &t->pad }, { "eot_token_id", -1, &t->eot }
    };
    const struct { const char *name; bool fallback, *out; } bools[] = {
        { "add_bos_token", bpe, &t->add_bos }, { "add_space_prefix", true, &t->add_space },
        { "remove_extra_whitespaces", !bpe, &t->squeeze }, { "escape_whitespaces", true, &t->escape }
    };
    shk_status status = SHK_OK;
    for (size_t i = 0; i < sizeof ids / sizeof *ids && !status; i++)
        status = get_id(g, ids[i].name, ids[i].fallback, ids[i].out, err);
    for (size_t i = 0; i < sizeof bools / sizeof *bools && !status; i++)
        status = get_bool(g, bools[i].name, bools[i].fallback, bools[i].out, err);
    return status;
}

static shk_status add_merges(shk_tokenizer *t, const shk_gguf *g, shk_error *err) {
    const shk_meta *m = find(g, "merges");
    if (!m || t->algorithm == SHK_UNIGRAM) return SHK_OK;
    if (m->type != SHK_META_ARRAY || m->elem != SHK_META_STRING)
        return shk_fail(err, SHK_E_FORMAT, "%s: %s is not an array of strings", g->path, m->key);
    shk_status status = shk_merges_reserve(t, (size_t)m->n, g->path, err);
    const uint8_t *at = m->data;
    for (uint64_t i = 0; i < m->n && !status; i++) {
        shk_str pair = shk_meta_next_str(&at);
        status = shk_merges_add_text(t, pair.data, pair.n, g->path, err);
    }
    return status;
}

static shk_status add_charsmap(shk_tokenizer *t, const shk_gguf *g, shk_error *err) {
    const shk_meta *m = find(g, "precompiled_charsmap");
    if (!m) return SHK_OK;
    if (m->type != SHK_META_ARRAY || (m->elem != SHK_META_U8 && m->elem != SHK_META_I8))
        return shk_fail(err, SHK_E_FORMAT, "%s: %s is not an array of bytes", g->path, m->key);
    return shk_charsmap_set(t, m->data, (size_t)m->n, g->path, err);
}

shk_status shk_tokenizer_from_gguf(shk_tokenizer **out, const shk_gguf *g, shk_error *err) {
    const shk_meta *model = find(g, "model");
    *out = NULL;
    if (!has_tokenizer(model)) return SHK_OK;
    shk_tokenizer *t = shk_vocab_new();
    shk_status status = t ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: out of memory", g->path);
    if (!status) status = get_algorithm(g, model, &t->algorithm, err);
    if (!status) status = get_properties(t, g, err);
    if (!status) status = add_pieces(t, g, err);
    if (!status) status = add_charsmap(t, g, err);
    if (!status) status = shk_vocab_finish(t, g->path, err);
    if (!status) status = add_merges(t, g, err);
    if (status) shk_tokenizer_free(t);
    else *out = t;
    return status;
}
