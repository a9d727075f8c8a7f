#include "grammar/numbers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

enum { PART = 64 };
static const uint64_t beyond = 1000000000000000000; /* of the whole part: what 64-bit readers can take ends a little later */

#define ANY_PART "[0-9]{0,24}"
#define SOME_PART "[0-9]{1,24}"
static const char any_integer[] = "0|-?[1-9][0-9]{0,17}";
static const char any_number[] = "-?([0-9](\\." SOME_PART ")?([eE]([+]?([0-9]{1,2}|[12][0-9]{2})|-[0-9]{1,3}))?|"
                                 "[1-9][0-9]{1,17}(\\." SOME_PART ")?([eE][+-]?[0-9]{1,2})?)";

/* A number's magnitude, and whether it is itself outside of the range that it bounds. */
typedef struct bound {
    uint64_t whole;
    char part[PART]; /* digits behind the point, without zeros at the end */
    bool negative, strict;
} bound;

static int compare(const bound *a, const bound *b) {
    if (a->whole != b->whole) return a->whole < b->whole ? -1 : 1;
    return strcmp(a->part, b->part);
}

/* ---- numbers as text ---- */

/* Of 15, 16 and 17 digits the fewest that give the same double. */
static void shortest(char *buf, size_t size, double v) {
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buf, size, "%.*g", digits, v);
        if (strtod(buf, NULL) == v) break;
    }
    char *comma = strchr(buf, ','); /* of a program that has chosen such a locale */
    if (comma) *comma = '.';
}

bool shk_number_write(shk_buffer *out, const json_t *number) {
    char buf[40];
    if (json_is_integer(number)) return shk_buffer_printf(out, "%jd", (intmax_t)json_integer_value(number));
    shortest(buf, sizeof buf, json_real_value(number));
    return shk_buffer_printf(out, "%s%s", buf, strpbrk(buf, ".e") ? "" : ".0");
}

static shk_status read_bound(bound *out, shk_limit limit, shk_error *err) {
    char text[40], digits[PART + 40], *end = digits;
    *out = (bound){ .strict = limit.strict };
    if (json_is_integer(limit.value)) snprintf(text, sizeof text, "%jd", (intmax_t)json_integer_value(limit.value));
    else shortest(text, sizeof text, json_real_value(limit.value));
    const char *p = text, *e = strchr(text, 'e');
    int exponent = e ? atoi(e + 1) : 0, point = -1;
    if (*p == '-') out->negative = true, p++;
    for (; *p && *p != 'e'; p++) {
        if (*p == '.') point = (int)(end - digits);
        else *end++ = *p;
    }
    int n = (int)(end - digits), whole = (point < 0 ? n : point) + exponent; /* digits before the point; it may lie anywhere */
    for (int i = 0; i < whole && out->whole < beyond; i++) out->whole = 10 * out->whole + (i < n ? (uint64_t)(digits[i] - '0') : 0);
    if (out->whole >= beyond) out->whole = beyond, n = 0, whole = 0;
    int length = n - whole;
    if (length >= PART) return shk_fail(err, SHK_E_UNSUPPORTED, "%s has too many digits behind the point", text);
    for (int i = 0; i < length; i++) out->part[i] = whole + i < 0 ? '0' : digits[whole + i];
    while (length > 0 && out->part[length - 1] == '0') length--;
    if (length < 0) length = 0;
    out->part[length] = 0;
    if (out->whole == 0 && length == 0) out->negative = false;
    return SHK_OK;
}

/* ---- whole numbers ---- */

static bool put(shk_buffer *out, const char *text) { return shk_buffer_append(out, text, strlen(text)); }

static bool put_span(shk_buffer *out, char lo, char hi, const char *rest) {
    return lo > hi || shk_buffer_printf(out, "|[%c-%c]%s", lo, hi, rest);
}

static bool any_digits(shk_buffer *out, size_t n) { return n == 0 || shk_buffer_printf(out, "[0-9]{%zu}", n); }

/* Digit strings as long as s and not below (above) it. */
static bool whole_from(shk_buffer *out, const char *s) {
    size_t n = strlen(s);
    if (strspn(s, "0") == n) return any_digits(out, n);
    bool ok = shk_buffer_printf(out, "(%c", *s) && whole_from(out, s + 1);
    if (ok && *s < '9') ok = shk_buffer_printf(out, "|[%c-9]", *s + 1) && any_digits(out, n - 1);
    return ok && put(out, ")");
}

static bool whole_to(shk_buffer *out, const char *s) {
    size_t n = strlen(s);
    if (strspn(s, "9") == n) return any_digits(out, n);
    bool ok = shk_buffer_printf(out, "(%c", *s) && whole_to(out, s + 1);
    if (ok && *s > '0') ok = shk_buffer_printf(out, "|[0-%c]", *s - 1) && any_digits(out, n - 1);
    return ok && put(out, ")");
}

/* Digit strings from a to b, which are equally long. */
static bool whole_between(shk_buffer *out, const char *a, const char *b) {
    for (; *a && *a == *b; a++, b++)
        if (!shk_buffer_append(out, a, 1)) return false;
    if (!*a) return true;
    bool ok = shk_buffer_printf(out, "(%c", *a) && whole_from(out, a + 1);
    if (ok && *a + 1 < *b) ok = shk_buffer_printf(out, "|[%c-%c]", *a + 1, *b - 1) && any_digits(out, strlen(a) - 1);
    return ok && shk_buffer_printf(out, "|%c", *b) && whole_to(out, b + 1) && put(out, ")");
}

/* Whole numbers from a to b, for each number of digits. */
static bool wholes(shk_buffer *out, uint64_t a, uint64_t b) {
    char lo[24], hi[24];
    bool ok = put(out, "("), first = true;
    for (uint64_t least = 0, most = 9; ok && least <= b; least = most + 1, most = 10 * most + 9) {
        if (most < a) continue;
        snprintf(lo, sizeof lo, "%ju", (uintmax_t)(a > least ? a : least));
        snprintf(hi, sizeof hi, "%ju", (uintmax_t)(b < most ? b : most));
        ok = (first || put(out, "|")) && whole_between(out, lo, hi);
        first = false;
    }
    return ok && put(out, ")");
}

/* ---- digits behind the point, of which there is one at least where `first`. Bounds have no zeros at their ends, so an empty one
 * is 0, and what is left of one behind its last digit is 0 as well. ---- */

static bool part_from(shk_buffer *out, const char *s, bool strict, bool first) {
    if (!*s) return put(out, strict ? "0{0,24}[1-9]" ANY_PART : first ? SOME_PART : ANY_PART);
    return shk_buffer_printf(out, "(%c", *s) && part_from(out, s + 1, strict, false) &&
           put_span(out, (char)(*s + 1), '9', ANY_PART) &&
           put(out, ")");
}

static bool part_to_exists(const char *s, bool strict) { return *s || !strict; }

static bool part_to(shk_buffer *out, const char *s, bool strict, bool first) {
    if (!*s) return put(out, first ? "0{1,24}" : "0{0,24}");
    bool ok = put(out, first ? "([0-0]0{0,24}" : "("); /* 0 is below s; so is nothing at all, where a digit came before */
    ok = ok && put_span(out, '0', (char)(*s - 1), ANY_PART);
    if (ok && part_to_exists(s + 1, strict)) ok = shk_buffer_printf(out, "|%c", *s) && part_to(out, s + 1, strict, false);
    return ok && put(out, ")");
}

static bool part_between(shk_buffer *out, const bound *lo, const char *a, const bound *hi, const char *b, bool first) {
    if (!*a && !lo->strict) return part_to(out, b, hi->strict, first);
    char from = *a ? *a : '0', to = *b;
    const char *rest = *a ? a + 1 : a;
    bool ok = shk_buffer_printf(out, "(%c", from);
    if (from == to) return ok && part_between(out, lo, rest, hi, b + 1, false) && put(out, ")");
    ok = ok && part_from(out, rest, lo->strict, false) && put_span(out, (char)(from + 1), (char)(to - 1), ANY_PART);
    if (ok && part_to_exists(b + 1, hi->strict)) ok = shk_buffer_printf(out, "|%c", to) && part_to(out, b + 1, hi->strict, false);
    return ok && put(out, ")");
}

/* ---- magnitudes ---- */

typedef struct writer {
    shk_buffer *out;
    const char *sign;
    bool integer, any, ok; /* any: one alternative is there */
} writer;

/* Opens an alternative that starts with the whole part. */
static void open_with(writer *w, uint64_t from, uint64_t to) {
    w->ok = w->ok && (!w->any || put(w->out, "|")) && put(w->out, w->sign) && wholes(w->out, from, to);
    w->any = true;
}

/* Opens and closes what stands behind the whole part: nothing need stand there if `optional`. */
static void open_part(writer *w) { w->ok = w->ok && put(w->out, "(\\."); }
static void close_part(writer *w, bool optional) { w->ok = w->ok && put(w->out, optional ? ")?" : ")"); }

static void between(writer *w, const bound *lo, const bound *hi) {
    int order = compare(lo, hi);
    if (order > 0 || (order == 0 && (lo->strict || hi->strict))) return;
    bool lowest = !*lo->part && !lo->strict, highest = *hi->part || !hi->strict; /* whether the wholes alone are within */
    if (w->integer) {
        uint64_t from = lo->whole + !lowest, to = hi->whole + highest; /* up to before `to` */
        if (from < to) open_with(w, from, to - 1);
        return;
    }
    if (lo->whole == hi->whole) {
        open_with(w, lo->whole, lo->whole);
        open_part(w);
        w->ok = w->ok && part_between(w->out, lo, lo->part, hi, hi->part, true);
        close_part(w, lowest && highest);
        return;
    }
    open_with(w, lo->whole, lo->whole);
    open_part(w);
    w->ok = w->ok && part_from(w->out, lo->part, lo->strict, true);
    close_part(w, lowest);
    if (lo->whole + 1 < hi->whole) {
        open_with(w, lo->whole + 1, hi->whole - 1);
        open_part(w);
        w->ok = w->ok && put(w->out, SOME_PART);
        close_part(w, true);
    }
    if (!highest) return;
    open_with(w, hi->whole, hi->whole);
    open_part(w);
    w->ok = w->ok && part_to(w->out, hi->part, hi->strict, true);
    close_part(w, true);
}

shk_status shk_number_pattern(shk_buffer *out, bool *none, bool integer, shk_limit min, shk_limit max, shk_error *err) {
    bound lo = { .whole = beyond, .negative = true, .strict = true }, hi = { .whole = beyond, .strict = true };
    const bound zero = { .strict = false }, above = { .strict = true };
    writer w = { out, "", integer, false, true };
    *none = false;
    if (!min.value && !max.value) {
        w.ok = put(out, integer ? any_integer : any_number);
    } else {
        shk_status status = min.value ? read_bound(&lo, min, err) : SHK_OK;
        if (!status && max.value) status = read_bound(&hi, max, err);
        if (status) return status;
        if (lo.whole == beyond) lo.strict = true;
        if (hi.whole == beyond) hi.strict = true;
        if (!hi.negative) between(&w, lo.negative ? &zero : &lo, &hi);
        w.sign = "-";
        if (lo.negative) between(&w, hi.negative ? &hi : &above, &lo);
        *none = !w.any;
    }
    return w.ok ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "out of memory for a grammar");
}
