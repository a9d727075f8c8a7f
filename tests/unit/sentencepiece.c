/* The same ids as Debian's SentencePiece tools: small vocabularies of many kinds are trained on sentencepiece.txt, then
 * thousands of lines, hostile ones among them, are encoded with both. */
#include "scratch.h"

#include <stdarg.h>

#include "text/tokenizer.h"
#include "text/vocab.h"

enum { LINES = 2000 };

static const char *const kinds[] = { /* options of spm_train */
    "--model_type=bpe --vocab_size=1000 --normalization_rule_name=identity --byte_fallback --add_dummy_prefix=false "
    "--remove_extra_whitespaces=false",
    "--model_type=bpe --vocab_size=1200 --normalization_rule_name=identity --byte_fallback "
    "--user_defined_symbols='##,<sep>,▁▁,▁▁▁▁,the' --remove_extra_whitespaces=false",
    "--model_type=bpe --vocab_size=1200 --normalization_rule_name=nmt_nfkc --byte_fallback",
    "--model_type=bpe --vocab_size=650 --normalization_rule_name=nfkc_cf --character_coverage=0.98",
    "--model_type=bpe --vocab_size=1200 --normalization_rule_name=identity --split_by_whitespace=false --byte_fallback "
    "--add_dummy_prefix=false --remove_extra_whitespaces=false --split_by_unicode_script=false --max_sentencepiece_length=40",
    "--model_type=unigram --vocab_size=1000 --normalization_rule_name=identity --byte_fallback --add_dummy_prefix=false "
    "--remove_extra_whitespaces=false",
    "--model_type=unigram --vocab_size=1000 --normalization_rule_name=nmt_nfkc --byte_fallback",
    "--model_type=unigram --vocab_size=650 --normalization_rule_name=nmt_nfkc_cf --character_coverage=0.98",
    "--model_type=unigram --vocab_size=1000 --normalization_rule_name=nfkc --control_symbols='<x>' "
    "--user_defined_symbols='##,<sep>,▁▁,▁▁▁▁,the'",
    "--model_type=unigram --vocab_size=1000 --normalization_rule_name=identity --split_by_whitespace=false --byte_fallback",
};

static unsigned long long seed = 20240517;
static size_t pick(size_t n) { return (size_t)(test_random(&seed) % n); }

static char *corpus;
static size_t n_corpus;

static void read_corpus(void) {
    FILE *f = fopen("tests/unit/sentencepiece.txt", "rb");
    corpus = calloc(1 << 20, 1);
    NEED(f && corpus, "tests/unit/sentencepiece.txt is needed");
    n_corpus = fread(corpus, 1, (1 << 20) - 1, f);
    fclose(f);
}

/* The start of a character at or before `at`. */
static size_t boundary(size_t at) {
    while (at > 0 && ((unsigned char)corpus[at] & 0xc0) == 0x80) at--;
    return at;
}

static void put_code(FILE *f, unsigned code) {
    if (code < 0x80) fputc((int)code, f);
    else if (code < 0x800) fprintf(f, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 63));
    else if (code < 0x10000) fprintf(f, "%c%c%c", 0xe0 | code >> 12, 0x80 | (code >> 6 & 63), 0x80 | (code & 63));
    else fprintf(f, "%c%c%c%c", 0xf0 | code >> 18, 0x80 | (code >> 12 & 63), 0x80 | (code >> 6 & 63), 0x80 | (code & 63));
}

static void put_excerpt(FILE *f) {
    size_t from = boundary(pick(n_corpus)), to = boundary(from + 1 + pick(120));
    for (; from < to && from < n_corpus; from++) fputc(corpus[from] == '\n' ? ' ' : corpus[from], f);
}

/* Any character but newline, NUL and surrogates. */
static void put_character(FILE *f) {
    static const unsigned ranges[][2] = { { 1, 0x80 }, { 0x80, 0x800 }, { 0x800, 0xd800 }, { 0xe000, 0x10000 }, { 0xf900, 0xfb50 },
                                          { 0x10000, 0x20000 }, { 0x1f300, 0x1f700 }, { 0x2000, 0x2100 }, { 0x300, 0x370 } };
    const unsigned *r = ranges[pick(sizeof ranges / sizeof *ranges)];
    unsigned code = r[0] + (unsigned)pick(r[1] - r[0]);
    put_code(f, code == '\n' || code == 0x2581 ? ' ' : code);
}

static void put_fragment(FILE *f, bool marks) {
    static const char *const fragments[] = {
        " ", "  ", "    ", "a", "aa", "b", "ab", "the", " the", "##", "<sep>", "\t", "\r", "0", "11", ".", "-", "\x7f", "\x01",
        "\xc2\xa0", "\xe3\x80\x80", "\xe2\x80\x8b", "\xef\xbb\xbf", "\xcc\x81", "e\xcc\x81", "\xef\xac\x81", "\xef\xb7\xba",
        "\xe1\x84\x80\xe1\x85\xa1", "\xef\xbf\xbd",
        "<unk>", "<s>", "</s>", "<x>", "<0x41>", "\xe2\x81\x87", "\xe2\x96\x81", "\xe2\x96\x81the", "\xe2\x96\x81\xe2\x96\x81"
    };
    size_t n = sizeof fragments / sizeof *fragments, i = pick(n);
    bool marked = i >= n - 3, special = i >= n - 9 && i < n - 5;
    if (marks ? !special : !marked) fputs(fragments[i], f);
}

static void write_lines(const char *path) {
    FILE *f = fopen(path, "wb");
    NEED(f, "%s cannot be written", path);
    for (size_t i = 0; i < LINES; i++) {
        size_t n = 1 + pick(20);
        switch (i % 4) {
        case 0: put_excerpt(f); break;
        case 1: for (; n > 0; n--) put_character(f); break;
        case 2: for (; n > 0; n--) put_fragment(f, i % 8 == 2); break;
        default:
            for (; n > 0; n -= n < 4 ? n : 4) put_fragment(f, false), put_excerpt(f), put_character(f);
        }
        fputc('\n', f);
    }
    fclose(f);
}

/* Whether `expected`, numbers with spaces between, says the same ids. Shows the line if not. */
static bool same(const char *line, size_t n, const int32_t *ids, size_t n_ids, const char *expected) {
    size_t i = 0;
    for (char *end;; expected = end, i++) {
        long id = strtol(expected, &end, 10);
        if (end == expected || i == n_ids || id != ids[i]) {
            if (end == expected && i == n_ids) return true;
            break;
        }
    }
    fprintf(stderr, "%.*s: differs at id %zu of %zu\n", (int)n, line, i, n_ids);
    return false;
}

static void compare(const shk_tokenizer *t, const char *kind, const char *lines, const char *expected) {
    FILE *f = fopen(lines, "rb"), *g = fopen(expected, "rb");
    char *line = NULL, *numbers = NULL;
    size_t line_size = 0, numbers_size = 0, n_ids, count = 0, good = 0;
    NEED(f && g, "%s and %s are needed", lines, expected);
    for (ssize_t n; (n = getline(&line, &line_size, f)) > 0 && getline(&numbers, &numbers_size, g) > 0; count++) {
        int32_t *ids;
        unsigned flags = memmem(line, (size_t)n, "\xe2\x96\x81", 3) ? SHK_TOKENIZE_SPECIAL : 0;
        if (shk_tokenize(t, line, (size_t)n - 1, flags, &ids, &n_ids, NULL)) break;
        good += same(line, (size_t)n - 1, ids, n_ids, numbers);
        free(ids);
    }
    CHECK(count == LINES && good == count, "%zu of %zu lines (%d) agree for %s", good, count, LINES, kind);
    free(line);
    free(numbers);
    fclose(f);
    fclose(g);
}

static bool run(const char *format, ...) {
    char command[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command) == 0;
}

static shk_tokenizer *load(const char *kind, const char *model) {
    shk_tokenizer *t = NULL;
    shk_error err = { 0 };
    NEED(shk_tokenizer_load(&t, model, &err) == SHK_OK, "%s: %s", kind, err.message);
    return t;
}

/* Ids for the lines by both, of a model that spm_train made and then of what our writer makes of it: once as it is, once
 * with a fifth of its pieces unused. */
static void check_kind(const char *kind, const char *lines) {
    static const char *const steps[] = { "as trained", "written again", "with unused pieces" };
    const char *prefix = scratch("m"), *ids = scratch("ids");
    char model[PATH_MAX], name[1024];
    shk_error err = { 0 };
    snprintf(model, sizeof model, "%s.model", prefix);
    NEED(run("spm_train --input=tests/unit/sentencepiece.txt --model_prefix=%s --hard_vocab_limit=false %s >%s 2>&1", prefix, kind,
             scratch("log")), "spm_train %s", kind);
    for (size_t step = 0; step < sizeof steps / sizeof *steps; step++) {
        shk_tokenizer *t = load(kind, model);
        snprintf(name, sizeof name, "%s, %s", kind, steps[step]);
        NEED(run("spm_encode --model=%s --output_format=id <%s >%s", model, lines, ids), "spm_encode for %s", name);
        compare(t, name, lines, ids);
        for (int32_t id = 0; id < t->n && step == 1; id += 5)
            if (t->type[id] == SHK_PIECE_NORMAL) t->type[id] = SHK_PIECE_UNUSED;
        NEED(shk_tokenizer_write_model(t, model, &err) == SHK_OK, "%s: %s", name, err.message);
        shk_tokenizer_free(t);
    }
}

int main(void) {
    if (!run("command -v spm_train >/dev/null && command -v spm_encode >/dev/null")) {
        SKIP("spm_train and spm_encode (Debian package sentencepiece) are not installed");
        return test_done();
    }
    const char *lines = strdup(scratch("lines"));
    read_corpus();
    write_lines(lines);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) check_kind(kinds[i], lines);
    free(corpus);
    free((char *)(uintptr_t)lines);
    return test_done();
}
