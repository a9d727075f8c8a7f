/* As safetensors, without the length of the header, which a mutation would make wrong most of the time: it ends with the last
 * brace. */
#include "file/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static bool accepts(const uint8_t *data, size_t n) {
    uint64_t header = n;
    while (header && data[header - 1] != '}') header--;
    uint8_t *file = malloc(8 + n);
    if (!file) return false;
    memcpy(file, &header, 8);
    if (n) memcpy(file + 8, data, n);
    shk_tensors table;
    bool accepted = shk_safetensors_parse(&table, "input", file, 8 + n, NULL) == SHK_OK;
    shk_tensors_free(&table);
    free(file);
    return accepted;
}
