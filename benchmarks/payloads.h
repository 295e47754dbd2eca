/* The payloads that load sends and expects: 32 digits of hexadecimal for phase, sequence number, source
 * and length, then text (or bytes) that depends on the sequence number. */
#ifndef PAYLOADS_H
#define PAYLOADS_H

#include <endian.h>

#include "frames.h"
#include "options.h"

enum { HEAD = 32, PERIOD = 4096 };

static uint8_t pattern[PAYLOAD_MAX + PERIOD];

/* Fill the pattern: records like JSON's with values that look random, or random bytes. */
static void draw_pattern(void)
{
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof pattern;) {
        char record[128];
        x = x * 1664525 + 1013904223;
        int length = sprintf(record, "{'id': %u, 'state': '%s', 'level': 0.%u, 'name': 'lamp %u'}, ", x >> 12,
                             x >> 31 ? "on" : "off", x >> 16 & 1023, x >> 24);
        if (options.binary) length = 1, record[0] = (char)(x >> 24);
        for (int j = 0; j < length && i < sizeof pattern; j++) pattern[i++] = (uint8_t)record[j];
    }
}

static const uint8_t *body_of(uint32_t sequence) { return pattern + sequence * 61 % PERIOD; }

/* Eight digits of hexadecimal at once: a digit a byte, and 39 more for those that are letters. */
static void write_number(uint8_t *digits, uint32_t number)
{
    uint64_t x = number;
    x = (x | x << 16) & 0x0000ffff0000ffff;
    x = (x | x << 8) & 0x00ff00ff00ff00ff;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
    uint64_t letters = (x + 0x0606060606060606) >> 4 & 0x0101010101010101;
    x = htobe64(x + 0x3030303030303030 + letters * 39);
    memcpy(digits, &x, 8);
}

static void write_head(uint8_t *head, uint32_t phase, uint32_t sequence, uint32_t source, size_t length)
{
    write_number(head, phase);
    write_number(head + 8, sequence);
    write_number(head + 16, source);
    write_number(head + 24, (uint32_t)length);
}

static void write_payload(struct bytes *b, uint32_t phase, uint32_t sequence, uint32_t source, size_t length)
{
    b->length = 0;
    write_head(reserve(b, length), phase, sequence, source, length);
    memcpy(b->at + HEAD, body_of(sequence), length - HEAD);
    b->length = length;
}

/* Read eight digits; false if they are not what write_number() writes. */
static bool read_number(const uint8_t *digits, uint32_t *number)
{
    uint8_t again[8];
    *number = 0;
    for (int i = 0; i < 8; i++) *number = *number << 4 | ((digits[i] & 15u) + (digits[i] >> 6) * 9u);
    write_number(again, *number);
    return !memcmp(again, digits, 8);
}

/* Which message it says it is; false if it says nothing of the kind. */
static bool read_head(const uint8_t *p, size_t length, uint32_t *phase, uint32_t *sequence)
{
    return length >= HEAD && read_number(p, phase) && read_number(p + 8, sequence);
}

/* Whether a payload has the bytes that it should have, as far as it goes. */
static bool is_payload(const uint8_t *p, size_t has, uint32_t phase, uint32_t sequence, uint32_t source, size_t length)
{
    uint8_t head[HEAD];
    write_head(head, phase, sequence, source, length);
    return !memcmp(p, head, HEAD) && !memcmp(p + HEAD, body_of(sequence), (has < length ? has : length) - HEAD);
}

#endif
