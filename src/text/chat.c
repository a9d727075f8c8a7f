/* Gemma's chat template:
 *     <bos><start_of_turn>user\nSYSTEM\n\nTEXT<end_of_turn>\n<start_of_turn>model\nTEXT<end_of_turn>\n...<start_of_turn>model\n
 * Between two markers lies plain text, tokenized in one piece as it is when the whole prompt is. */
#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

/* What Python's strip(), which the template uses, takes for white space. */
static const char *const blanks[] = {
    " ", "\n", "\r", "\t", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f", "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x80",
    "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88",
    "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"
};

/* Bytes of the white space at the beginning, or at the end, of [p, p+n); 0: none. */
static size_t blank(const char *p, size_t n, bool at_end) {
    for (size_t i = 0; i < sizeof blanks / sizeof *blanks; i++) {
        size_t length = strlen(blanks[i]);
        if (length <= n && memcmp(at_end ? p + n - length : p, blanks[i], length) == 0) return length;
    }
    return 0;
}

static bool append_trimmed(shk_buffer *b, const char *p) {
    size_t n = strlen(p), length;
    while ((length = blank(p, n, false)) > 0) p += length, n -= length;
    while ((length = blank(p, n, true)) > 0) n -= length;
    return shk_buffer_append(b, p, n);
}

typedef struct chat {
    const shk_tokenizer *t;
    shk_buffer text;   /* what has come since the last marker */
    shk_buffer system; /* waiting for the next user message */
    shk_ids ids;
    shk_error *err;
} chat;

static shk_status no_memory(const chat *c) { return shk_fail(c->err, SHK_E_MEMORY, "out of memory for a conversation"); }

/* Tokenizes the text so far, then puts the marker. */
static shk_status put_marker(chat *c, int32_t marker) {
    int32_t *ids;
    size_t n;
    shk_status status = shk_tokenize(c->t, c->text.data ? c->text.data : "", c->text.n, 0, &ids, &n, c->err);
    if (status) return status;
    for (size_t i = 0; i < n; i++) shk_ids_push(&c->ids, ids[i]);
    if (marker != SHK_NO_ID) shk_ids_push(&c->ids, marker);
    free(ids);
    c->text.n = 0;
    return c->ids.failed ? no_memory(c) : SHK_OK;
}

static shk_status put_turn(chat *c, const char *role, const char *text) {
    shk_status status = put_marker(c, c->t->turn_start);
    if (status) return status;
    if (!shk_buffer_printf(&c->text, "%s\n", role)) return no_memory(c);
    if (strcmp(role, "user") == 0) {
        if (!shk_buffer_append(&c->text, c->system.data, c->system.n)) return no_memory(c);
        c->system.n = 0;
    }
    if (!text) return SHK_OK;
    if (!append_trimmed(&c->text, text)) return no_memory(c);
    status = put_marker(c, c->t->turn_end);
    return status || shk_buffer_append(&c->text, "\n", 1) ? status : no_memory(c);
}

static shk_status put_message(chat *c, const shk_message *m) {
    static const char *const roles[][2] = { { "user", "user" }, { "assistant", "model" }, { "model", "model" } };
    if (strcmp(m->role, "system") == 0) return shk_buffer_printf(&c->system, "%s\n\n", m->text) ? SHK_OK : no_memory(c);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(m->role, roles[i][0]) == 0) return put_turn(c, roles[i][1], m->text);
    return shk_fail(c->err, SHK_E_ARGUMENT, "a message's role is \"%.40s\"; there are system, user and assistant", m->role);
}

shk_status shk_chat_tokens(const shk_tokenizer *t, const shk_message *messages, size_t n, int add_generation_prompt, unsigned flags,
                           int32_t **ids, size_t *n_ids, shk_error *err) {
    chat c = { .t = t, .err = err };
    shk_status status = SHK_OK;
    *ids = NULL, *n_ids = 0;
    if (t->turn_start < 0 || t->turn_end < 0)
        return shk_fail(err, SHK_E_UNSUPPORTED, "the vocabulary has no <start_of_turn> and <end_of_turn>, so no conversations");
    if ((flags & SHK_TOKENIZE_BOS) && t->add_bos && t->bos >= 0) shk_ids_push(&c.ids, t->bos);
    for (size_t i = 0; i < n && !status; i++) status = put_message(&c, &messages[i]);
    if (!status && c.system.n > 0) status = shk_fail(err, SHK_E_ARGUMENT, "no user message follows the system message");
    if (!status && add_generation_prompt) status = put_turn(&c, "model", NULL);
    if (!status) status = put_marker(&c, SHK_NO_ID);
    if (!status && !c.ids.v && !(c.ids.v = shk_calloc(1, sizeof *c.ids.v))) status = no_memory(&c);
    if (status) free(c.ids.v);
    else *ids = c.ids.v, *n_ids = c.ids.n;
    shk_buffer_free(&c.text);
    shk_buffer_free(&c.system);
    return status;
}
