/* Sequences of random tokens through a small model of tests/golden. */
#ifndef SHK_TEST_SEQUENCE_H
#define SHK_TEST_SEQUENCE_H

#include "../device.h"

static shk_error err;
static shk_device device; /* that models are loaded on */
/* A short test on a GPU, so an emulated one: few tokens, few models. */
static inline bool brief(void) { return device != SHK_DEVICE_CPU && test_short(); }
/* What is left has every kind of mixer: local and global attention, Spark's, recurrence. */
static inline bool left_out(const char *name) {
    return brief() && strcmp(name, "gemma2") != 0 && strcmp(name, "spark") != 0 && strcmp(name, "griffin") != 0;
}
#define OK(call) NEED((call) == SHK_OK, "%s", err.message)

static inline shk_session *session(shk_model *m, uint64_t context) {
    shk_session *s;
    OK(shk_session_new(&s, m, context, &err));
    return s;
}

static inline void advance(shk_session *s, const int32_t *tokens, size_t n, float *logits) {
    shk_span span = { .session = s, .tokens = tokens, .n = n, .logits = logits };
    if (n) OK(shk_advance(shk_session_model(s), &span, 1, &err));
}

/* t[n], which it returns. */
static inline int32_t *random_tokens(int32_t *t, size_t n, unsigned long long seed) {
    for (size_t i = 0; i < n; i++) t[i] = (int32_t)(test_random(&seed) >> 33) % 316 + 3;
    return t;
}

#endif
