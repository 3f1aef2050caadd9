/* Makes a program cost more: preloaded, it lets the process spin for SLOW_PERCENT of the processor time that it takes.
 *
 * The engine's shard calls io_uring_enter once a turn, through libc's syscall(). Behind each of these calls this one looks
 * at how much processor time the process took since the last, its workers in the kernel included, and spins for that
 * part of it. So the program does the same work in the same way, and pays more for it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

static _Atomic long long last;

static long long nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void pay(void) {
    static int percent = -1;
    if (percent < 0) {
        const char *text = getenv("SLOW_PERCENT");
        percent = text ? atoi(text) : 0;
    }
    long long owed = (nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - atomic_load(&last)) * percent / 100;
    long long end = nanoseconds(CLOCK_THREAD_CPUTIME_ID) + owed;
    while (nanoseconds(CLOCK_THREAD_CPUTIME_ID) < end) {
    }
    atomic_store(&last, nanoseconds(CLOCK_PROCESS_CPUTIME_ID));
}

long syscall(long number, long a, long b, long c, long d, long e, long f) {
    static long (*original)(long, ...);
    if (!original) {
        original = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    }
    long result = original(number, a, b, c, d, e, f);
    if (number == SYS_io_uring_enter) {
        int kept = errno;
        pay();
        errno = kept;
    }
    return result;
}
