/* The clock, and a histogram of nanoseconds that is exact to 1.6 %: 64 steps for each power of two. */
#ifndef FIGURES_H
#define FIGURES_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SECOND 1000000000ull

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t now(void) { return clock_ns(CLOCK_MONOTONIC); }

enum { STEPS = 64 * 60 };

struct histogram {
    uint64_t n, max, steps[STEPS];
};

static void count_in(struct histogram *h, uint64_t ns)
{
    int power = ns < 64 ? 5 : 63 - __builtin_clzll(ns);
    h->steps[ns < 64 ? ns : (uint64_t)(power - 5) * 64 + (ns >> (power - 6) & 63)]++;
    h->n++;
    if (ns > h->max) h->max = ns;
}

static double quantile_us(const struct histogram *h, double q)
{
    uint64_t wanted = (uint64_t)(q * (double)h->n), passed = 0;
    for (uint64_t i = 0; i < STEPS; i++) {
        passed += h->steps[i];
        uint64_t ns = i < 64 ? i : (64 + i % 64) << (i / 64 - 1);
        if (passed > wanted) return (double)(ns < h->max ? ns : h->max) / 1e3;
    }
    return (double)h->max / 1e3;
}

static void print_histogram(const char *name, const struct histogram *h)
{
    printf(",\"%s\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f,\"n\":%llu}", name, quantile_us(h, .5),
           quantile_us(h, .9), quantile_us(h, .99), (double)h->max / 1e3, (unsigned long long)h->n);
}

#endif
