/* What SentencePiece does to a text before it looks for pieces: character rules (NFKC for instance), spaces.
 *
 * The rules come compiled, as the field precompiled_charsmap of a tokenizer.model:
 *     u32 bytes of the trie | the trie: u32 units | replacements, each ended by a zero
 * all little-endian. The trie is a double array (as the Darts-clone library writes it). A unit u has
 *     bits 0-7 its label, bit 8 whether a key ends here, bits 10-30 its offset, shifted left by 8 more if bit 9 is set
 * and bit 31 is set in a leaf, whose other bits are the value: where in the replacements the text begins that is put for the
 * key. From a unit at i with offset o, byte b leads to the unit at i ^ o ^ b, if that has label b; the leaf is at i ^ o. The
 * longest key that the text starts with applies. */
#include <stdlib.h>
#include <string.h>

#include "file/cursor.h"
#include "text/vocab.h"

enum {
    GROWTH = 32,    /* times the text; no character grows more in NFKC than 3 bytes to 33 */
    KEY_MAX = 256,  /* bytes of a text that a rule looks at: a broken trie may lead in a circle */
    PUT_MAX = 1024  /* bytes of one replacement */
};

static bool replacements_valid(const char *p, size_t n) {
    for (size_t length; n > 0; p += length + 1, n -= length < n ? length + 1 : n) {
        length = strnlen(p, n);
        if (length > PUT_MAX) return false;
    }
    return true;
}

shk_status shk_charsmap_set(shk_tokenizer *t, const void *data, size_t n, const char *path, shk_error *err) {
    shk_cursor c = { .data = data, .size = n };
    if (n == 0) return SHK_OK;
    uint32_t bytes = shk_cursor_u32(&c);
    const uint8_t *units = shk_cursor_take(&c, bytes, 1);
    if (!units || bytes == 0 || bytes % 4 || shk_cursor_left(&c) == 0)
        return shk_fail(err, SHK_E_FORMAT, "%s: precompiled_charsmap: a trie of %u bytes cannot be in %zu bytes", path, bytes, n);
    t->n_trie = bytes / 4;
    t->n_rewritten = shk_cursor_left(&c);
    t->trie = shk_calloc(t->n_trie, sizeof *t->trie);
    t->rewritten = shk_memdup(units + bytes, t->n_rewritten);
    if (!t->trie || !t->rewritten) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its normalisation rules", path);
    memcpy(t->trie, units, bytes);
    if (!replacements_valid(t->rewritten, t->n_rewritten))
        return shk_fail(err, SHK_E_FORMAT, "%s: precompiled_charsmap: a replacement has more than %d bytes", path, PUT_MAX);
    return SHK_OK;
}

/* Length of the longest key that the text starts with, and what is put for it; 0: none. */
static size_t find_rule(const shk_tokenizer *t, const char *p, size_t n, const char **put) {
    size_t best = 0, at = 0;
    for (size_t i = 0; t->trie; i++) {
        uint32_t unit = t->trie[at], offset = unit >> 10 << ((unit >> 9 & 1) * 8);
        at ^= offset;
        if (unit >> 8 & 1 && i > 0 && at < t->n_trie) {
            uint32_t value = t->trie[at] & 0x7fffffff;
            if (value < t->n_rewritten) best = i, *put = t->rewritten + value;
        }
        if (i == n || i == KEY_MAX) break;
        at ^= (uint8_t)p[i];
        if (at >= t->n_trie || (t->trie[at] & 0x800000ff) != (uint8_t)p[i]) break;
    }
    return best;
}

/* How many bytes of [p, p+n) come next, and what is put for them. User pieces are left alone; those with spaces are not
 * looked for, as their spaces appear only later. */
static size_t next_character(const shk_tokenizer *t, const char *p, size_t n, const char **put, size_t *n_put) {
    int32_t mark;
    size_t used = shk_vocab_mark(t, p, n, false, &mark);
    bool kept = used > 0 && !memchr(p, ' ', used);
    if (!kept) {
        used = find_rule(t, p, n, put);
        if (used > 0) return *n_put = strlen(*put), used;
        used = shk_utf8_length(p, n);
    }
    *put = p, *n_put = used;
    return used;
}

static size_t skip_spaces(const shk_tokenizer *t, const char *text, size_t n) {
    size_t at = 0, used, n_put;
    for (const char *put; at < n; at += used) {
        used = next_character(t, text + at, n - at, &put, &n_put);
        if (n_put != 1 || *put != ' ') break;
    }
    return at;
}

static void trim_spaces(shk_buffer *b, size_t from) {
    while (b->n > from && b->data[b->n - 1] == ' ') b->n--;
}

shk_status shk_normalize(const shk_tokenizer *t, const char *text, size_t n, bool first, bool notation, shk_buffer *out,
                         shk_error *err) {
    size_t at = t->squeeze && first ? skip_spaces(t, text, n) : 0, from = out->n, n_put;
    bool space = t->squeeze && first; /* what was put last is one, and no other may follow */
    if (!shk_mul(&out->cap, n, GROWTH) || !shk_add(&out->cap, out->cap, from + PUT_MAX)) out->cap = 0;
    bool ok = !(t->add_space && first && at < n) || shk_buffer_append(out, " ", 1);
    for (const char *put; at < n && ok;) {
        at += next_character(t, text + at, n - at, &put, &n_put);
        while (space && n_put > 0 && *put == ' ') put++, n_put--;
        if (n_put > 0) space = t->squeeze && put[n_put - 1] == ' ';
        ok = shk_buffer_append(out, put, n_put);
    }
    if (!ok && out->cap && out->n > out->cap - PUT_MAX)
        return shk_fail(err, SHK_E_LIMIT, "the vocabulary's normalisation makes the text more than %d times longer", GROWTH);
    if (!ok) return shk_fail(err, SHK_E_MEMORY, "out of memory for a text of %zu bytes", n);
    if (notation && t->escape && out->n > from) out->n = from + shk_unescape(out->data + from, out->data + from, out->n - from);
    if (t->squeeze) trim_spaces(out, from);
    return SHK_OK;
}
