/* The bytes of RFC 6455 that load.c and floor.c share: buffers that grow, the answer to a handshake's
 * key, frame headers, masking. Nothing here reads or writes a socket. */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum { HEADER_MAX = 14, KEY_LENGTH = 24, ACCEPT_LENGTH = 28 };

struct bytes {
    uint8_t *at;
    size_t length, capacity;
};

/* Where `more` bytes may be written behind those that are there; the caller adds to the length. */
static uint8_t *reserve(struct bytes *b, size_t more)
{
    if (b->length + more > b->capacity) {
        b->capacity = (b->length + more) * 2;
        b->at = realloc(b->at, b->capacity);
        if (!b->at) {
            fputs("out of memory\n", stderr);
            exit(1);
        }
    }
    return b->at + b->length;
}

static void append(struct bytes *b, const void *from, size_t length)
{
    memcpy(reserve(b, length), from, length);
    b->length += length;
}

static void release(struct bytes *b)
{
    free(b->at);
    *b = (struct bytes){0};
}

struct frame {
    bool fin, masked;
    uint8_t rsv, opcode, mask[4]; /* RSV1 is 4 in rsv, as it is the first of three bits. */
    size_t header;
    uint64_t length;
};

/* Read the header of a frame; false while more bytes are needed. */
static bool read_header(const uint8_t *p, size_t n, struct frame *f)
{
    if (n < 2) return false;
    f->fin = p[0] >> 7;
    f->rsv = p[0] >> 4 & 7;
    f->opcode = p[0] & 15;
    f->masked = p[1] >> 7;
    unsigned extended = (p[1] & 127) == 126 ? 2 : (p[1] & 127) == 127 ? 8 : 0;
    f->header = 2 + extended + (f->masked ? 4 : 0);
    if (n < f->header) return false;
    f->length = extended ? 0 : p[1] & 127;
    for (unsigned i = 0; i < extended; i++) f->length = f->length << 8 | p[2 + i];
    if (f->masked) memcpy(f->mask, p + 2 + extended, 4);
    return true;
}

/* Write the header of a frame that is a message of its own, masked if a mask is given. */
static size_t write_header(uint8_t *p, int opcode, uint64_t length, const uint8_t *mask)
{
    unsigned extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
    p[0] = (uint8_t)(0x80 | opcode);
    p[1] = (uint8_t)((mask ? 0x80 : 0) | (extended == 8 ? 127 : extended ? 126 : length));
    for (unsigned i = 0; i < extended; i++) p[2 + i] = (uint8_t)(length >> 8 * (extended - 1 - i));
    if (mask) memcpy(p + 2 + extended, mask, 4);
    return 2 + extended + (mask ? 4 : 0);
}

/* Mask a payload where it is, or unmask it. */
static void apply_mask(uint8_t *p, size_t n, const uint8_t mask[4])
{
    uint64_t word, twice;
    size_t i = 0;
    memcpy(&twice, mask, 4);
    memcpy((uint8_t *)&twice + 4, mask, 4);
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        word ^= twice;
        memcpy(p + i, &word, 8);
    }
    for (; i < n; i++) p[i] ^= mask[i & 3];
}

static void base64(const uint8_t *from, size_t n, char *to)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3, to += 4) {
        uint32_t three = (uint32_t)from[i] << 16;
        three |= i + 1 < n ? (uint32_t)from[i + 1] << 8 : 0;
        three |= i + 2 < n ? from[i + 2] : 0;
        for (int j = 0; j < 4; j++) to[j] = digits[three >> (18 - 6 * j) & 63];
    }
    for (size_t i = 0; i < (3 - n % 3) % 3; i++) to[-1 - (int)i] = '=';
    *to = 0;
}

/* One block of SHA-1 (RFC 3174). */
static void sha1_block(uint32_t h[5], const uint8_t *p)
{
    static const uint32_t constants[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 80; i++) {
        if (i < 16) {
            w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
        } else {
            uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = x << 1 | x >> 31;
        }
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t next = (a << 5 | a >> 27) + f + e + w[i] + constants[i / 20];
        e = d, d = c, c = b << 30 | b >> 2, b = a, a = next;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* The Sec-WebSocket-Accept that answers a key. */
static void accept_for(const char key[KEY_LENGTH], char accept[ACCEPT_LENGTH + 1])
{
    uint8_t blocks[128] = {0}, digest[20];
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memcpy(blocks, key, KEY_LENGTH);
    memcpy(blocks + KEY_LENGTH, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11\x80", 37);
    blocks[126] = 60 * 8 >> 8, blocks[127] = 60 * 8 & 255; /* How many bits there are. */
    sha1_block(h, blocks);
    sha1_block(h, blocks + 64);
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
    base64(digest, 20, accept);
}

#endif
