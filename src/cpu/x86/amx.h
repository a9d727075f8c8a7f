/* AMX's eight tile registers, after vec_avx512.h. */
#ifndef SHK_CPU_X86_AMX_H
#define SHK_CPU_X86_AMX_H

enum { TILE_ROWS = 16 };

/* What they hold: bytes of a row, and rows. */
typedef struct shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} shapes;

INLINE void configure(const shapes *s) {
    __asm__ volatile("" ::"m"(*s)); /* some compilers think that the next line reads its first bytes only */
    _tile_loadconfig(s);
}

/* All of them whole: 16 rows of 64 bytes. */
INLINE void configure_whole(void) {
    shapes s = { .palette = 1 };
    for (int i = 0; i < 8; i++) s.bytes[i] = 64, s.rows[i] = TILE_ROWS;
    configure(&s);
}

/* Before tiles are loaded from what was just stored: to a compiler a tile's load reads no memory. */
INLINE void tiles_will_read(void) { __asm__ volatile("" ::: "memory"); }

#endif
