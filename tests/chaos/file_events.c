/* Counts what a process does to files below one folder, and at one of these events ends it, stops it or lets the
 * event fail. Loaded before the C library (LD_PRELOAD), so that Python, Arrow and all others pass through it.
 *
 * The counts lie in shared memory, which fork_server.py makes: processes that a command starts count together. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { KILL_ALL = -1, KILL_ONE = -2, STOP = -3 }; /* otherwise an errno: that of all events that take room, from here */
enum { GROWS, SHRINKS };

struct plan {
    atomic_long events;
    long at; /* 0: count alone */
    long action;
    long shift; /* seconds that the clock of the day is ahead */
    char what[512]; /* the event that was met */
    char folder[512];
};

static struct plan *plan;

void follow_plan(struct plan *given) { plan = given; }

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

/* Meet an event on an absolute path; returns 1 if it is to fail, with errno set. */
static int meet(const char *call, const char *path, int kind) {
    size_t length = plan ? strlen(plan->folder) : 0;
    if (!length || strncmp(path, plan->folder, length)) return 0;
    long event = atomic_fetch_add(&plan->events, 1) + 1;
    if (!plan->at || event < plan->at) return 0;
    int first = event == plan->at;
    if (first) snprintf(plan->what, sizeof plan->what, "%s %s", call, path + length);
    if (plan->action > 0) {
        if (kind == SHRINKS) return 0;
        errno = plan->action;
        return 1;
    }
    if (first && plan->action == KILL_ALL) kill(0, SIGKILL);
    if (first && plan->action == KILL_ONE) kill(getpid(), SIGKILL);
    if (first && plan->action == STOP) kill(0, SIGSTOP); /* its workers too */
    return 0;
}

static int meet_fd(const char *call, int fd, int kind) {
    char link[64], path[1024];
    if (!plan || fd < 3) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return meet(call, path, kind);
}

static int meet_at(const char *call, int folder, const char *name, int kind) {
    char link[64], path[2048];
    if (!plan || !name) return 0;
    if (name[0] == '/') return meet(call, name, kind);
    if (folder == AT_FDCWD) {
        if (!getcwd(path, 1024)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, path, 1023);
        if (length <= 0) return 0;
        path[length] = 0;
    }
    size_t length = strlen(path);
    snprintf(path + length, sizeof path - length, "/%s", name);
    return meet(call, path, kind);
}

/* Meet a write; one that is to be killed has written half of its bytes. */
static int meet_write(int fd, const void *bytes, size_t size) {
    if (plan && plan->at && plan->action < 0 && size > 1 && fd > 2 && atomic_load(&plan->events) + 1 == plan->at) {
        char link[64], path[1024];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1), own = strlen(plan->folder);
        if (plan->action != STOP && own && length > own && !strncmp(path, plan->folder, own))
            REAL(write)(fd, bytes, size / 2);
    }
    return meet_fd("write", fd, GROWS);
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define MODE(flags)                                        \
    mode_t mode = 0;                                       \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) { \
        va_list rest;                                      \
        va_start(rest, flags);                             \
        mode = va_arg(rest, mode_t);                       \
        va_end(rest);                                      \
    }
#define OPEN(name)                                                                            \
    int name(const char *path, int flags, ...) {                                              \
        MODE(flags)                                                                           \
        if (WRITES(flags) && meet_at("open", AT_FDCWD, path, GROWS)) return -1;                \
        return REAL(name)(path, flags, mode);                                                 \
    }
#define OPENAT(name)                                                                          \
    int name(int folder, const char *path, int flags, ...) {                                  \
        MODE(flags)                                                                           \
        if (WRITES(flags) && meet_at("open", folder, path, GROWS)) return -1;                  \
        return REAL(name)(folder, path, flags, mode);                                         \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                           \
    FILE *name(const char *path, const char *mode) {                                          \
        if (strpbrk(mode, "wa+") && meet_at("open", AT_FDCWD, path, GROWS)) return NULL;       \
        return REAL(name)(path, mode);                                                        \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define DO(kind_of, call, shown, parameters, arguments, failed) \
    kind_of call parameters {                                   \
        if (shown) return failed;                               \
        return REAL(call) arguments;                            \
    }
DO(ssize_t, write, meet_write(fd, bytes, n), (int fd, const void *bytes, size_t n), (fd, bytes, n), -1)
DO(ssize_t, pwrite, meet_fd("write", fd, GROWS), (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), -1)
DO(ssize_t, pwrite64, meet_fd("write", fd, GROWS), (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), -1)
DO(ssize_t, writev, meet_fd("write", fd, GROWS), (int fd, const struct iovec *b, int n), (fd, b, n), -1)
DO(size_t, fwrite, meet_fd("write", fileno(f), GROWS), (const void *b, size_t s, size_t n, FILE *f), (b, s, n, f), 0)
DO(ssize_t, sendfile, meet_fd("write", out, GROWS), (int out, int in, off_t *o, size_t n), (out, in, o, n), -1)
DO(ssize_t, sendfile64, meet_fd("write", out, GROWS), (int out, int in, off64_t *o, size_t n), (out, in, o, n), -1)
DO(ssize_t, copy_file_range, meet_fd("write", out, GROWS),
   (int in, off64_t *i, int out, off64_t *o, size_t n, unsigned flags), (in, i, out, o, n, flags), -1)
DO(int, ftruncate, meet_fd("truncate", fd, GROWS), (int fd, off_t n), (fd, n), -1)
DO(int, ftruncate64, meet_fd("truncate", fd, GROWS), (int fd, off64_t n), (fd, n), -1)
DO(int, fsync, meet_fd("fsync", fd, GROWS), (int fd), (fd), -1)
DO(int, fdatasync, meet_fd("fsync", fd, GROWS), (int fd), (fd), -1)
DO(int, rename, meet_at("rename", AT_FDCWD, to, GROWS), (const char *from, const char *to), (from, to), -1)
DO(int, renameat, meet_at("rename", there, to, GROWS), (int here, const char *from, int there, const char *to),
   (here, from, there, to), -1)
DO(int, renameat2, meet_at("rename", there, to, GROWS),
   (int here, const char *from, int there, const char *to, unsigned flags), (here, from, there, to, flags), -1)
DO(int, link, meet_at("link", AT_FDCWD, to, GROWS), (const char *from, const char *to), (from, to), -1)
DO(int, linkat, meet_at("link", there, to, GROWS), (int here, const char *from, int there, const char *to, int flags),
   (here, from, there, to, flags), -1)
DO(int, symlink, meet_at("link", AT_FDCWD, to, GROWS), (const char *from, const char *to), (from, to), -1)
DO(int, mkdir, meet_at("mkdir", AT_FDCWD, path, GROWS), (const char *path, mode_t mode), (path, mode), -1)
DO(int, mkdirat, meet_at("mkdir", at, path, GROWS), (int at, const char *path, mode_t mode), (at, path, mode), -1)
DO(int, unlink, meet_at("unlink", AT_FDCWD, path, SHRINKS), (const char *path), (path), -1)
DO(int, unlinkat, meet_at("unlink", at, path, SHRINKS), (int at, const char *path, int flags), (at, path, flags), -1)
DO(int, rmdir, meet_at("rmdir", AT_FDCWD, path, SHRINKS), (const char *path), (path), -1)

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = REAL(clock_gettime)(clock, now);
    if (!failed && plan && clock == CLOCK_REALTIME) now->tv_sec += plan->shift;
    return failed;
}
