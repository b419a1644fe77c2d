/* Reads or writes a block device past the page cache, through the kernel's asynchronous requests, for some seconds:
 *   guest_io DEVICE random|sequential read|write DEPTH BLOCK_BYTES SPAN_MIB SECONDS
 * and prints: operations per second, bytes per second, 50th and 99th percentile of the latency in microseconds. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEPTH 64
#define MOST 4000000

static double latency[MOST];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int fail(const char *what)
{
    perror(what);
    return 1;
}

int main(int count, char **word)
{
    if (count != 8)
        return 2;
    int anywhere = word[2][0] == 'r', writes = word[3][0] == 'w', depth = atoi(word[4]);
    long block = atol(word[5]), blocks = (atol(word[6]) << 20) / block, next = 0, done = 0;
    double seconds = atof(word[7]), begun[DEPTH];
    struct iocb requests[DEPTH];
    unsigned long long chance = 88172645463325252ull;
    aio_context_t context = 0;
    int file = open(word[1], O_RDWR | O_DIRECT);
    if (file < 0)
        return fail(word[1]);
    if (syscall(SYS_io_setup, DEPTH, &context))
        return fail("io_setup");
    memset(requests, 0, sizeof requests);
    for (int i = 0; i < depth; i++) {
        char *memory;
        if (posix_memalign((void **)&memory, 4096, block))
            return fail("memory");
        memset(memory, 'a' + i % 26, block);
        requests[i] = (struct iocb){.aio_fildes = file, .aio_buf = (unsigned long)memory, .aio_nbytes = block,
                                    .aio_data = i, .aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD};
    }
    double start = now(), end = start + seconds;
    int flying = 0, first = 1;
    while (flying || first) {
        struct io_event events[DEPTH];
        int landed = 0;
        if (first) {
            for (; landed < depth; landed++)
                events[landed].data = landed;
        } else {
            landed = syscall(SYS_io_getevents, context, 1, DEPTH, events, 0);
        }
        double at = now();
        for (int k = 0; k < landed; k++) {
            int i = events[k].data;
            if (!first) {
                if (events[k].res != block)
                    return fail("a request failed");
                if (done < MOST)
                    latency[done++] = at - begun[i];
                flying--;
            }
            if (at >= end)
                continue;
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            struct iocb *request = &requests[i];
            request->aio_offset = (long long)(anywhere ? (long)(chance % blocks) : next++ % blocks) * block;
            begun[i] = now();
            if (syscall(SYS_io_submit, context, 1, &request) != 1)
                return fail("io_submit");
            flying++;
        }
        first = 0;
    }
    double took = now() - start;
    qsort(latency, done, sizeof *latency, ascending);
    printf("%.1f %.0f %.0f %.0f\n", done / took, done * block / took, latency[done / 2] * 1e6,
           latency[(long)(done * .99)] * 1e6);
    return 0;
}
