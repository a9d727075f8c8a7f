/* Elementary functions on vectors; a NaN gives a NaN. The bounds on relative errors, in units of u = 2^-24, hold for every float
 * in the range and are what the bounds of tests/kernels are made of. */

INLINE vf vf_get(const float *p, size_t m) { return m < LANES ? vf_load_part(p, m) : vf_load(p); }
INLINE void vf_put(float *p, vf v, size_t m) {
    if (m < LANES) vf_store_part(p, v, m);
    else vf_store(p, v);
}

INLINE vf vf_clamp(vf x, float low, float high) { return vf_min(vf_set(high), vf_max(vf_set(low), x)); }

INLINE float vf_largest(vf a) {
    float m = a[0];
    for (int i = 1; i < LANES; i++) m = a[i] > m ? a[i] : m;
    return m;
}

/* x = n ln 2 + r, |r| <= ln(2)/2: returns 2^n and sets *p = e^r - 1 (minimax of degree 7). x in [-87, 88]. The sum with 1.5 * 2^23
 * rounds x / ln 2 to the integer that then stands in the low bits. */
INLINE vf exp_parts(vf x, vf *p) {
    const vf shift = vf_set(0x1.8p23f);
    vf n = vf_fma(x, vf_set(0x1.715476p0f), shift);
    vf scale = (vf)(((vu)n << 23) + 0x3f800000u);
    n -= shift;
    vf r = vf_fma(n, vf_set(-0x1.62e4p-1f), x); /* ln 2 in two parts: n times the first is exact */
    r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), r);
    vf q = vf_set(0x1.a19e2ap-13f);
    q = vf_fma(q, r, vf_set(0x1.6d749ap-10f));
    q = vf_fma(q, r, vf_set(0x1.111092p-7f));
    q = vf_fma(q, r, vf_set(0x1.5554aep-5f));
    q = vf_fma(q, r, vf_set(0x1.555556p-3f));
    q = vf_fma(q, r, vf_set(0.5f));
    *p = vf_fma(q * r, r, r);
    return scale;
}

/* e^x for x <= 88, within 2 u; 0 below -87, where results would soon be denormal. */
INLINE vf vf_exp(vf x) {
    vf p, scale = exp_parts(vf_max(vf_set(-87), x), &p);
    return (vf)((vu)vf_fma(scale, p, scale) & (vu)~(x < -87));
}

/* e^x - 1 for x <= 88, within 3 u also where it is near 0. */
INLINE vf vf_expm1(vf x) {
    vf p, scale = exp_parts(vf_max(vf_set(-87), x), &p);
    return vf_fma(scale, p, scale - 1);
}

/* 1 / (1 + e^-x), within 3 u; at least e^-88. */
INLINE vf vf_sigmoid(vf x) { return 1 / (1 + vf_exp(vf_clamp(-x, -87, 88))); }

/* tanh x = (e^2x - 1) / (e^2x + 1), within 4 u. Past 10 it is 1 in f32. */
INLINE vf vf_tanh(vf x) {
    vf e = vf_expm1(2 * vf_clamp(x, -10, 10));
    return e / (e + 2);
}

/* log(1 + t) for t in [0, 1], within 3 u: 2 atanh s with s = t / (2 + t). */
INLINE vf vf_log1p(vf t) {
    vf s = t / (2 + t), z = s * s;
    vf p = vf_set(0x1.1ef874p-2f);
    p = vf_fma(p, z, vf_set(0x1.1eb61p-2f));
    p = vf_fma(p, z, vf_set(0x1.99d27cp-2f));
    p = vf_fma(p, z, vf_set(0x1.5555p-1f));
    return vf_fma(p * z, s, 2 * s);
}
