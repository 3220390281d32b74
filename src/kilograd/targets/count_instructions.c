/* Hooks for the emulator: count the instructions of every block that runs. */
#include <stdint.h>

typedef struct {
    uint64_t count;
    const uint8_t *flash; /* what lies at `base` */
    uint64_t base;
} counter;

void count_thumb(void *emulator, uint64_t address, uint32_t size, void *user) {
    counter *c = user;
    const uint8_t *p = c->flash + (address - c->base), *end = p + size;
    (void)emulator;
    while (p < end) { /* the top five bits say whether an instruction takes one or two halves */
        const int wide = (p[1] >> 3) >= 0x1D;
        p += wide ? 4 : 2;
        c->count++;
    }
}

void count_words(void *emulator, uint64_t address, uint32_t size, void *user) {
    (void)emulator;
    (void)address;
    ((counter *)user)->count += size / 4;
}
