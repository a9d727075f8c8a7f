/* Any text must come back, whatever the algorithm. */
#include "fuzz.h"
#include "tokenizing.h"

/* Pieces of a kind that text can hit, pass by and overlap. */
static const char *const pieces[] = {
    "a", "b", "ab", "ba", "aa", "aaa", "aab", "\xe2\x96\x81", "\xe2\x96\x81" "a", "\xe2\x96\x81\xe2\x96\x81", "\xc3\xa9",
    "a\xc3\xa9", "\xc3", "<", ">", "0x", "<0x", "x>", "\xe2\x96", "\x96\x81", "a\xe2\x96\x81" "b"
};
static const char *const marks[] = { "\n", "\n\n", "\xe2\x96\x81\xe2\x96\x81\xe2\x96\x81", "abab", "<b>", "<eos>" };
enum { PIECES = sizeof pieces / sizeof *pieces, MARKS = sizeof marks / sizeof *marks, KINDS = 5 };

/* kind 0: BPE by scores, 1: with some pieces unused, 2: with a space in front, 3: BPE by merges, 4: unigram */
static shk_tokenizer *make(int kind) {
    shk_tokenizer *t = shk_vocab_new();
    char name[8];
    bool ok = t && !shk_vocab_reserve(t, PIECES + MARKS + 256, "fuzz", NULL);
    for (size_t i = 0; i < PIECES && ok; i++)
        ok = !shk_vocab_add(t, pieces[i], strlen(pieces[i]), kind == 1 && i % 3 == 2 ? SHK_PIECE_UNUSED : SHK_PIECE_NORMAL,
                            -(double)((i * 7) % PIECES / 2), "fuzz", NULL);
    for (size_t i = 0; i < MARKS && ok; i++)
        ok = !shk_vocab_add(t, marks[i], strlen(marks[i]), i + 1 < MARKS ? SHK_PIECE_USER : SHK_PIECE_CONTROL, 0, "fuzz", NULL);
    for (unsigned i = 0; i < 256 && ok; i++) {
        snprintf(name, sizeof name, "<0x%02X>", i);
        ok = !shk_vocab_add(t, name, 6, SHK_PIECE_BYTE, 0, "fuzz", NULL);
    }
    if (!ok) abort();
    if (kind == 2) t->add_space = true;
    if (kind == 4) t->algorithm = SHK_UNIGRAM;
    if (shk_vocab_finish(t, "fuzz", NULL)) abort();
    if (kind != 3) return t;
    static const char *const merges[] = { "a a", "b a", "aa b", "a b", "\xe2\x96\x81 a", "a \xc3\xa9" };
    ok = !shk_merges_reserve(t, sizeof merges / sizeof *merges, "fuzz", NULL);
    for (size_t i = 0; i < sizeof merges / sizeof *merges && ok; i++)
        ok = !shk_merges_add_text(t, merges[i], strlen(merges[i]), "fuzz", NULL);
    if (!ok) abort();
    return t;
}

static bool accepts(const uint8_t *data, size_t n) {
    static shk_tokenizer *kinds[KINDS];
    for (int k = 0; k < KINDS; k++) {
        if (!kinds[k]) kinds[k] = make(k);
        tokenize(kinds[k], (const char *)data, n, 0, true);
        tokenize(kinds[k], (const char *)data, n, SHK_TOKENIZE_SPECIAL, false);
    }
    return true;
}
