/* Ends its process with SIGKILL before the nth call that changes a file, for tests: LD_PRELOAD it, then crash_after(n).
 * A write that is hit has written half of its bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static volatile long left = -1;

void crash_after(long calls) { __atomic_store_n(&left, calls, __ATOMIC_SEQ_CST); }

static int hit(void) {
    return __atomic_load_n(&left, __ATOMIC_SEQ_CST) >= 0 && __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST) == 0;
}

static void end(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(type, name, parameters, arguments)                                                                        \
    type name parameters {                                                                                             \
        if (hit())                                                                                                     \
            end();                                                                                                     \
        return REAL(name) arguments;                                                                                   \
    }

ssize_t write(int fd, const void *bytes, size_t count) {
    if (hit()) {
        if (count > 1)
            REAL(write)(fd, bytes, count / 2);
        end();
    }
    return REAL(write)(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    if (hit()) {
        REAL(pwrite64)(fd, bytes, count / 2, at);
        end();
    }
    return REAL(pwrite64)(fd, bytes, count, at);
}

WRAP(int, fsync, (int fd), (fd))
WRAP(int, fdatasync, (int fd), (fd))
WRAP(int, rename, (const char *from, const char *to), (from, to))
WRAP(int, link, (const char *from, const char *to), (from, to))
WRAP(int, unlink, (const char *path), (path))
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
        if (hit())
            end();
    }
    return REAL(open64)(path, flags, mode);
}
