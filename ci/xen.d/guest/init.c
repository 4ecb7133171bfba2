/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The only program of the test guest. It fills memory with a pattern. Then
 * threads go over it again and again: they check every word and write its next
 * value. A word is determined by its address and the pass number, so that a
 * page with wrong, stale or foreign contents cannot have it.
 *
 * Parameters, from the kernel's command line (unknown key=value pairs become
 * init's environment):
 *   mib=N      memory to work on (default 32)
 *   threads=N  number of threads (default 1), one per vcpu in turn
 *   share=1    all threads work on every page, on alternate words (otherwise
 *              each has its own pages)
 *   hot=N      the first N in 100 of each thread's pages are checked over and
 *              over while it goes over the others
 *   report=N   seconds between progress lines (default 1)
 *   slow_us=N  a page that takes longer than this counts as one that had to be
 *              waited for (default 200)
 *   rest=MS    pause of the first thread after each pass (default 0): the vcpu
 *              halts meanwhile
 *   asks=1     one more thread that makes hypercalls with arguments in pages of
 *              its own (asks.c)
 *   spare=N    MiB that are used once and given back to the kernel; prints
 *              where this free memory is
 *   churn=N    MiB that the first thread takes from the kernel after each pass,
 *              fills, checks and gives back
 *   naps=1     one more thread that sleeps for a millisecond, over and over: a
 *              timer hypercall each time
 */
#define _GNU_SOURCE
#include "asks.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE_WORDS = 512, MAX_THREADS = 16, HOT_EVERY = 256 };

static uint64_t *area;
static uint64_t pages;
static unsigned threads, share, hot, report, rest;
static size_t churn;
static unsigned long naps;
static pthread_barrier_t barrier;
static uint64_t slow_ns;
/*
 * Times of pages that had to be waited for: eight classes to each power of two.
 */
enum { CLASSES = 8 * 40 };
static struct { uint64_t bad, worst_ns, first_bad, slow, slow_ns, classes[CLASSES], gone_over; } result[MAX_THREADS];

static uint64_t expected(uint64_t word, uint64_t pass)
{
    uint64_t x = (word + 1) * 0x9e3779b97f4a7c15u + pass * 0xbf58476d1ce4e5b9u;
    x ^= x >> 29;
    return x * 0x94d049bb133111ebu;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static unsigned long number(const char *name, unsigned long otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoul(s, NULL, 10) : otherwise;
}

static unsigned class_of(uint64_t ns)
{
    unsigned log = 63 - __builtin_clzll(ns | 8), class = log * 8 + (ns >> (log - 3) & 7);
    return class < CLASSES ? class : CLASSES - 1;
}

/*
 * The time within which this percentage of the waits ended, of all threads
 * since the start.
 */
static uint64_t quantile_ns(unsigned percent)
{
    uint64_t all = 0, so_far = 0;
    unsigned c;

    for (unsigned t = 0; t < threads; t++)
        all += result[t].slow;
    for (c = 0; c < CLASSES - 1; c++) {
        for (unsigned t = 0; t < threads; t++)
            so_far += result[t].classes[c];
        if (so_far * 100 >= all * percent)
            break;
    }
    return (9ull + c % 8) << c / 8 >> 3;
}

/* Checks a few words of each page, which were written in this pass. */
static void look_again(unsigned me, uint64_t first, uint64_t end, uint64_t pass)
{
    for (uint64_t word = first * PAGE_WORDS; word < end * PAGE_WORDS; word += 64)
        if (((volatile uint64_t *)area)[word] != expected(word, pass + 1) && !result[me].bad++)
            result[me].first_bad = word;
}

static void one_pass(unsigned me, uint64_t pass)
{
    uint64_t first = share ? 0 : pages * me / threads, end = share ? pages : pages * (me + 1) / threads;
    uint64_t cold = first + (end - first) * hot / 100;
    unsigned step = share ? threads : 1, start = share ? me : 0;

    for (uint64_t p = first; p < end; p++) {
        volatile uint64_t *page = area + p * PAGE_WORDS;
        uint64_t began = now_ns(), took;

        for (unsigned w = start; w < PAGE_WORDS; w += step) {
            uint64_t word = p * PAGE_WORDS + w;
            if (page[w] != expected(word, pass)) {
                if (!result[me].bad++)
                    result[me].first_bad = word;
            }
            page[w] = expected(word, pass + 1);
        }
        took = now_ns() - began;
        __atomic_add_fetch(&result[me].gone_over, 1, __ATOMIC_RELAXED);
        if (took > result[me].worst_ns)
            result[me].worst_ns = took;
        if (took > slow_ns) {
            result[me].slow++;
            result[me].slow_ns += took;
            result[me].classes[class_of(took)]++;
        }
        if (hot && p >= cold && (p - cold) % HOT_EVERY == 0)
            look_again(me, first, cold, pass);
    }
}

/*
 * Memory fresh from the kernel must be zero, and must keep what is written to
 * it.
 */
static void take_and_give(uint64_t pass)
{
    uint64_t words = churn / sizeof *area, *fresh;

    fresh = mmap(NULL, churn, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED)
        return;
    for (uint64_t w = 0; w < words; w++) {
        result[0].bad += fresh[w] != 0;
        fresh[w] = expected(w, ~pass);
    }
    for (uint64_t w = 0; w < words; w++)
        result[0].bad += fresh[w] != expected(w, ~pass);
    munmap(fresh, churn);
}

static void *worker(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    uint64_t last = now_ns();
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(me % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof set, &set);
    for (uint64_t pass = 0;; pass++) {
        one_pass(me, pass);
        if (me == 0 && churn)
            take_and_give(pass);
        pthread_barrier_wait(&barrier);
        if (me == 0 && (pass == 0 || now_ns() - last >= report * 1000000000ull)) {
            uint64_t bad = 0, worst = 0, first = 0, slow = 0, slow_sum = 0;
            for (unsigned t = 0; t < threads; t++) {
                if (result[t].bad && !bad)
                    first = result[t].first_bad;
                bad += result[t].bad;
                slow += result[t].slow;
                slow_sum += result[t].slow_ns;
                if (result[t].worst_ns > worst)
                    worst = result[t].worst_ns;
                result[t].worst_ns = 0;
            }
            printf("pattern pass %llu bad %llu worst_us %llu slow %llu slow_us %llu p50_us %llu p99_us %llu at_ms %llu",
                   (unsigned long long)pass + 1, (unsigned long long)bad, (unsigned long long)worst / 1000,
                   (unsigned long long)slow, (unsigned long long)slow_sum / 1000,
                   (unsigned long long)quantile_ns(50) / 1000, (unsigned long long)quantile_ns(99) / 1000,
                   (unsigned long long)now_ns() / 1000000);
            if (naps)
                printf(" naps %lu", naps);
            if (asks)
                printf(" asks %lu", asks);
            if (bad)
                printf(" first_bad_word %llu", (unsigned long long)first);
            printf("\n");
            last = now_ns();
        }
        if (me == 0 && rest)
            usleep(rest * 1000);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

/*
 * Prints where an area is, as runs of frame numbers, so that a pager can be
 * restricted to it.
 */
static void print_gfns(const char *what, const void *at, uint64_t count)
{
    int map = open("/proc/self/pagemap", O_RDONLY);
    uint64_t first = 0, next = 0, entry;

    printf("%s gfns", what);
    for (uint64_t p = 0; p < count; p++) {
        uint64_t page = (uintptr_t)at / 4096 + p;
        if (pread(map, &entry, sizeof entry, page * sizeof entry) != sizeof entry)
            break;
        /* Present, and its frame number. */
        entry = entry >> 63 ? entry & ((1ull << 55) - 1) : 0;
        if (entry && entry == next) {
            next++;
            continue;
        }
        /* Short runs are left out, to save lines. */
        if (next - first >= 64)
            printf(" %#llx-%#llx", (unsigned long long)first, (unsigned long long)next - 1);
        first = entry;
        next = entry + 1;
    }
    if (next - first >= 64)
        printf(" %#llx-%#llx", (unsigned long long)first, (unsigned long long)next - 1);
    printf("\n");
    close(map);
}

/* Afterwards this is most of the kernel's free memory. */
static void use_and_free(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (at == MAP_FAILED) {
        printf("pattern error: no %zu spare bytes\n", bytes);
        pause();
    }
    print_gfns("spare", at, bytes / 4096);
    munmap(at, bytes);
}

/*
 * A pass may take minutes where pages come back slowly: whoever waits for it
 * needs to see progress.
 */
static void *tell_progress(void *arg)
{
    uint64_t told = 0;

    for (;; sleep(5)) {
        uint64_t gone_over = 0;

        for (unsigned t = 0; t < threads; t++)
            gone_over += __atomic_load_n(&result[t].gone_over, __ATOMIC_RELAXED);
        if (gone_over != told)
            printf("pattern going, %llu pages gone over\n", (unsigned long long)gone_over);
        told = gone_over;
    }
    return arg;
}

static void *napper(void *arg)
{
    const struct timespec nap = { .tv_nsec = 1000000 };

    for (;; naps++)
        nanosleep(&nap, NULL);
    return arg;
}

int main(int argc, char **argv)
{
    pthread_t thread[MAX_THREADS], nap, asking, progress;
    size_t bytes;
    int console;

    (void)argc;
    /* The kernel runs /sbin/poweroff when dom0 asks for a shutdown. */
    if (strstr(argv[0], "poweroff")) {
        reboot(RB_POWER_OFF);
        return 1;
    }
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mkdir("/proc", 0555);
    mount("proc", "/proc", "proc", 0, NULL);
    if ((console = open("/dev/console", O_RDWR)) >= 0) {
        dup2(console, 1);
        dup2(console, 2);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);

    threads = number("threads", 1);
    if (threads < 1 || threads > MAX_THREADS)
        threads = 1;
    share = number("share", 0);
    report = number("report", 1);
    rest = number("rest", 0);
    /* The other words of the page are written at other times. */
    hot = share ? 0 : number("hot", 0);
    churn = number("churn", 0) << 20;
    slow_ns = number("slow_us", 200) * 1000;
    bytes = number("mib", 32) << 20;
    pages = bytes / (PAGE_WORDS * sizeof *area);
    area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) {
        printf("pattern error: no %zu bytes\n", bytes);
        pause();
    }
    for (uint64_t w = 0; w < pages * PAGE_WORDS; w++)
        area[w] = expected(w, 0);
    print_gfns("pattern", area, pages);
    if (number("spare", 0))
        use_and_free(number("spare", 0) << 20);
    printf("pattern filled %zu MiB, %u threads%s\n", bytes >> 20, threads, share ? ", shared pages" : "");

    pthread_barrier_init(&barrier, NULL, threads);
    for (unsigned t = 1; t < threads; t++)
        if (pthread_create(&thread[t], NULL, worker, (void *)(uintptr_t)t)) {
            printf("pattern error: no thread %u\n", t);
            pause();
        }
    if (pthread_create(&progress, NULL, tell_progress, NULL))
        printf("pattern error: no thread for progress\n");
    if (number("naps", 0) && pthread_create(&nap, NULL, napper, NULL))
        printf("pattern error: no thread for naps\n");
    if (number("asks", 0) && pthread_create(&asking, NULL, ask, NULL))
        printf("pattern error: no thread for asks\n");
    worker(0);
    return 0;
}
