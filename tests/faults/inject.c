/* Faults for a command and all its processes, preloaded into them. The file and process calls of all of them are counted
   in one order, and one of them, or all from it on, is made to fail, to be cut short, or to be the last of its process.

   The processes share one block of memory, a file that FAULTS_CONTROL names. `struct control` is written by injector.py,
   which has the same fields in the same order. A process takes part once it has called `faults_begin`, or was started by
   one that did (FAULTS_INSIDE=1 in its environment, or forked). Calls on files outside of `root` are not counted. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { MOST_PROCESSES = 4000, PATH_BYTES = 4096 };
enum mode { COUNT, KILL, KILL_ALL, FAIL, SHORT };

struct control {
    int64_t counted, fired, at;
    int32_t mode, number, is_from_then_on, is_main_only, is_armed, main_process, n_processes;
    int32_t processes[MOST_PROCESSES];
    char kinds[16], calls[512], root[1024], log[1024], fired_call[32], fired_path[1024];
};

static struct control *control;
static char control_path[1024];
static int is_inside;

#define REAL(name)                                                                  \
    static __typeof__(&name) real;                                                  \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void take_part(void) {
    if (!control || !is_inside) return;
    int32_t place = __sync_fetch_and_add(&control->n_processes, 1);
    if (place < MOST_PROCESSES) control->processes[place] = getpid();
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL"), *inside = getenv("FAULTS_INSIDE");
    if (!path) return;
    snprintf(control_path, sizeof control_path, "%s", path);
    int file = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (file < 0) return;
    control = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (control == MAP_FAILED) { control = 0; return; }
    is_inside = inside && *inside == '1';
    if (is_inside && !control->main_process) control->main_process = getpid(); /* where no `faults_begin` says another */
    take_part();
    pthread_atfork(0, 0, take_part);
}

/* This process is the command: from here on its calls count, and those of the processes that it starts. */
void faults_begin(void) {
    if (!control) return;
    is_inside = 1;
    control->main_process = getpid();
    take_part();
    __sync_synchronize();
    control->is_armed = 1;
}

/* ---------------------------------------------------------------- which file */

static const char *of_handle(int handle, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, size - 1);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

static const char *absolute(int folder, const char *path, char *buffer, size_t size) {
    char base[PATH_BYTES] = "";
    if (!path || path[0] == '/') return path ? path : "";
    if (folder != AT_FDCWD) of_handle(folder, base, sizeof base);
    else if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0;
    snprintf(buffer, size, "%s/%s", base, path);
    return buffer;
}

static int is_below_root(const char *path) {
    size_t length = strlen(control->root);
    return !strncmp(path, control->root, length) && (path[length] == '/' || !path[length]);
}

/* ---------------------------------------------------------------- what becomes of a call */

static int is_ours(pid_t process) { /* a number may have become another process's since */
    char path[64], environment[65536], wanted[1100];
    snprintf(path, sizeof path, "/proc/%d/environ", process);
    int file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) return 0;
    ssize_t length = syscall(SYS_read, file, environment, sizeof environment);
    syscall(SYS_close, file);
    size_t n = snprintf(wanted, sizeof wanted, "FAULTS_CONTROL=%s", control_path);
    return length > 0 && memmem(environment, length, wanted, n) != 0;
}

static void die(int is_all) {
    int32_t n = control->n_processes < MOST_PROCESSES ? control->n_processes : MOST_PROCESSES;
    for (int32_t i = 0; is_all && i < n; i++) {
        pid_t process = control->processes[i];
        if (process && process != getpid() && is_ours(process)) syscall(SYS_kill, process, SIGKILL);
    }
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static void write_line(int64_t n, char kind, const char *call, const char *path) {
    char line[PATH_BYTES + 128];
    int length = snprintf(line, sizeof line, "%lld %d %c %s %s\n", (long long)n, getpid(), kind, call, path);
    int file = syscall(SYS_openat, AT_FDCWD, control->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) return;
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
}

static int is_counted(char kind, const char *call, const char *path) {
    char word[64];
    if (!control || !is_inside || !control->is_armed || !strchr(control->kinds, kind)) return 0;
    if (kind != 'P' && !is_below_root(path)) return 0;
    if (control->is_main_only && getpid() != control->main_process) return 0;
    snprintf(word, sizeof word, ",%s,", call);
    return !control->calls[0] || strstr(control->calls, word) != 0;
}

static void fire(const char *call, const char *path) {
    control->fired = control->at;
    snprintf(control->fired_call, sizeof control->fired_call, "%s", call);
    snprintf(control->fired_path, sizeof control->fired_path, "%s", path);
}

/* 0: the call is made; above 0: it fails with that number; -1: a write takes half of its bytes. */
static int verdict(char kind, const char *call, const char *path, int is_write) {
    int before = errno, outcome = 0;
    if (is_counted(kind, call, path)) {
        int64_t n = __sync_add_and_fetch(&control->counted, 1);
        if (control->log[0]) write_line(n, kind, call, path);
        int is_it = control->at && n == control->at, is_later = control->at && n > control->at;
        if (is_it) fire(call, path);
        if (is_it && control->mode == KILL) die(0);
        if (is_it && control->mode == KILL_ALL) die(1);
        if (control->mode == FAIL && (is_it || (is_later && control->is_from_then_on))) outcome = control->number;
        if (control->mode == SHORT) outcome = is_it && is_write ? -1 : is_it || is_later ? control->number : 0;
    }
    errno = before;
    return outcome;
}

static int of_path(char kind, const char *call, int folder, const char *path) {
    char buffer[2 * PATH_BYTES];
    if (!control || !is_inside) return 0;
    return verdict(kind, call, absolute(folder, path, buffer, sizeof buffer), 0);
}

static int of_file(char kind, const char *call, int handle, int is_write) {
    char buffer[PATH_BYTES];
    if (!control || !is_inside) return 0;
    return verdict(kind, call, of_handle(handle, buffer, sizeof buffer), is_write);
}

#define REFUSE_IF(number_, failure)         \
    do {                                    \
        int refused_ = (number_);           \
        if (refused_ > 0) {                 \
            errno = refused_;               \
            return failure;                 \
        }                                   \
    } while (0)

/* ---------------------------------------------------------------- the calls; W: change files, R: read, S: look, P: processes */

#define MODE_ARGUMENT(flags) \
    va_list rest;            \
    va_start(rest, flags);   \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest)
static char kind_of(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? 'W' : 'R'; }
static const char *word_of(int flags) { return kind_of(flags) == 'W' ? "openw" : "open"; }

#define OPEN(name)                                                                              \
    int name(const char *path, int flags, ...) {                                                \
        REAL(name);                                                                             \
        MODE_ARGUMENT(flags);                                                                   \
        REFUSE_IF(of_path(kind_of(flags), word_of(flags), AT_FDCWD, path), -1);                 \
        return real(path, flags, mode);                                                         \
    }
#define OPENAT(name)                                                                            \
    int name(int folder, const char *path, int flags, ...) {                                    \
        REAL(name);                                                                             \
        MODE_ARGUMENT(flags);                                                                   \
        REFUSE_IF(of_path(kind_of(flags), word_of(flags), folder, path), -1);                   \
        return real(folder, path, flags, mode);                                                 \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* A call on a path, or on a handle: its type, name, parameters, arguments, then kind, word, and what it is about. */
#define ON_PATH(type, failure, name, parameters, arguments, kind, word, folder, path) \
    type name parameters {                                                            \
        REAL(name);                                                                   \
        REFUSE_IF(of_path(kind, word, folder, path), failure);                        \
        return real arguments;                                                        \
    }
#define ON_FILE(type, name, parameters, arguments, kind, word, handle) \
    type name parameters {                                             \
        REAL(name);                                                    \
        REFUSE_IF(of_file(kind, word, handle, 0), -1);                 \
        return real arguments;                                         \
    }
#define HALVING(name, parameters, whole, half)                \
    ssize_t name parameters {                                 \
        REAL(name);                                           \
        int outcome = of_file('W', "write", file, 1);         \
        REFUSE_IF(outcome, -1);                               \
        return outcome < 0 && size > 1 ? real half : real whole; \
    }
#define PROCESS(type, name, parameters, arguments, word)      \
    type name parameters {                                    \
        REAL(name);                                           \
        REFUSE_IF(verdict('P', word, "-", 0), -1);            \
        return real arguments;                                \
    }

ON_PATH(DIR *, NULL, opendir, (const char *path), (path), 'R', "opendir", AT_FDCWD, path)
ON_FILE(ssize_t, read, (int file, void *bytes, size_t size), (file, bytes, size), 'R', "read", file)
ON_FILE(ssize_t, pread, (int file, void *bytes, size_t size, off_t at), (file, bytes, size, at), 'R', "read", file)
ON_FILE(ssize_t, pread64, (int file, void *bytes, size_t size, off64_t at), (file, bytes, size, at), 'R', "read", file)
HALVING(write, (int file, const void *bytes, size_t size), (file, bytes, size), (file, bytes, size / 2))
HALVING(pwrite, (int file, const void *bytes, size_t size, off_t at), (file, bytes, size, at), (file, bytes, size / 2, at))
HALVING(pwrite64, (int file, const void *bytes, size_t size, off64_t at), (file, bytes, size, at), (file, bytes, size / 2, at))
ON_FILE(ssize_t, sendfile, (int file, int from, off_t *at, size_t size), (file, from, at, size), 'W', "sendfile", file)
ON_FILE(ssize_t, sendfile64, (int file, int from, off64_t *at, size_t size), (file, from, at, size), 'W', "sendfile", file)
ON_FILE(ssize_t, copy_file_range, (int from, off64_t *a, int file, off64_t *b, size_t size, unsigned flags),
        (from, a, file, b, size, flags), 'W', "copy_file_range", file)
ON_PATH(int, -1, rename, (const char *old, const char *new), (old, new), 'W', "rename", AT_FDCWD, new)
ON_PATH(int, -1, renameat, (int a, const char *old, int b, const char *new), (a, old, b, new), 'W', "rename", b, new)
ON_PATH(int, -1, renameat2, (int a, const char *old, int b, const char *new, unsigned flags), (a, old, b, new, flags),
        'W', "rename", b, new)
ON_PATH(int, -1, link, (const char *old, const char *new), (old, new), 'W', "link", AT_FDCWD, new)
ON_PATH(int, -1, linkat, (int a, const char *old, int b, const char *new, int flags), (a, old, b, new, flags), 'W', "link", b, new)
ON_PATH(int, -1, symlink, (const char *old, const char *new), (old, new), 'W', "symlink", AT_FDCWD, new)
ON_PATH(int, -1, symlinkat, (const char *old, int b, const char *new), (old, b, new), 'W', "symlink", b, new)
ON_PATH(int, -1, unlink, (const char *path), (path), 'W', "unlink", AT_FDCWD, path)
ON_PATH(int, -1, unlinkat, (int a, const char *path, int flags), (a, path, flags), 'W', "unlink", a, path)
ON_PATH(int, -1, rmdir, (const char *path), (path), 'W', "rmdir", AT_FDCWD, path)
ON_PATH(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), 'W', "mkdir", AT_FDCWD, path)
ON_PATH(int, -1, mkdirat, (int a, const char *path, mode_t mode), (a, path, mode), 'W', "mkdir", a, path)
ON_PATH(int, -1, chmod, (const char *path, mode_t mode), (path, mode), 'W', "chmod", AT_FDCWD, path)
ON_PATH(int, -1, fchmodat, (int a, const char *path, mode_t mode, int flags), (a, path, mode, flags), 'W', "chmod", a, path)
ON_FILE(int, fchmod, (int file, mode_t mode), (file, mode), 'W', "chmod", file)
ON_FILE(int, fsync, (int file), (file), 'W', "fsync", file)
ON_FILE(int, fdatasync, (int file), (file), 'W', "fsync", file)
ON_FILE(int, ftruncate, (int file, off_t size), (file, size), 'W', "ftruncate", file)
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size), 'W', "ftruncate", file)
ON_FILE(int, flock, (int file, int what), (file, what), 'L', what & LOCK_UN ? "unlock" : "lock", file)
ON_PATH(int, -1, stat, (const char *path, struct stat *about), (path, about), 'S', "stat", AT_FDCWD, path)
ON_PATH(int, -1, stat64, (const char *path, struct stat64 *about), (path, about), 'S', "stat", AT_FDCWD, path)
ON_PATH(int, -1, lstat, (const char *path, struct stat *about), (path, about), 'S', "stat", AT_FDCWD, path)
ON_PATH(int, -1, lstat64, (const char *path, struct stat64 *about), (path, about), 'S', "stat", AT_FDCWD, path)
ON_PATH(int, -1, fstatat, (int a, const char *path, struct stat *about, int flags), (a, path, about, flags), 'S', "stat", a, path)
ON_PATH(int, -1, fstatat64, (int a, const char *path, struct stat64 *about, int flags), (a, path, about, flags), 'S', "stat", a, path)

#define FCNTL(name)                                                                     \
    int name(int file, int what, ...) {                                                 \
        REAL(name);                                                                     \
        va_list rest;                                                                   \
        va_start(rest, what);                                                           \
        void *argument = va_arg(rest, void *);                                          \
        va_end(rest);                                                                   \
        if (what == F_SETLK || what == F_SETLKW || what == F_OFD_SETLK)                 \
            REFUSE_IF(of_file('L', "lock", file, 0), -1);                               \
        return real(file, what, argument);                                              \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

int close(int file) { /* what fails to be closed is closed nevertheless */
    REAL(close);
    if (!control || !is_inside) return real(file);
    int flags = syscall(SYS_fcntl, file, F_GETFL), outcome = 0;
    if (flags != -1 && flags & (O_WRONLY | O_RDWR)) outcome = of_file('W', "close", file, 0);
    if (outcome > 0) real(file);
    REFUSE_IF(outcome, -1);
    return real(file);
}

PROCESS(pid_t, fork, (void), (), "fork")
pid_t vfork(void) { return fork(); } /* whose child may not return from here */

#define SPAWN(name)                                                                                       \
    int name(pid_t *process, const char *path, const posix_spawn_file_actions_t *actions,                 \
             const posix_spawnattr_t *attributes, char *const words[], char *const environment[]) {       \
        REAL(name);                                                                                       \
        int outcome = verdict('P', "fork", "-", 0);                                                       \
        return outcome > 0 ? outcome : real(process, path, actions, attributes, words, environment);      \
    }
SPAWN(posix_spawn)
SPAWN(posix_spawnp)

int execve(const char *path, char *const words[], char *const environment[]) {
    REAL(execve);
    if (control && is_inside && !syscall(SYS_faccessat, AT_FDCWD, path, X_OK)) /* PATH is searched by trying */
        REFUSE_IF(verdict('P', "execve", path, 0), -1);
    return real(path, words, environment);
}

int kill(pid_t process, int number) {
    REAL(kill);
    if (number) REFUSE_IF(verdict('P', "kill", "-", 0), -1);
    return real(process, number);
}

int killpg(pid_t group, int number) {
    REAL(killpg);
    if (number) REFUSE_IF(verdict('P', "kill", "-", 0), -1);
    return real(group, number);
}

PROCESS(ssize_t, sendmsg, (int file, const struct msghdr *message, int flags), (file, message, flags), "send")
PROCESS(ssize_t, send, (int file, const void *bytes, size_t size, int flags), (file, bytes, size, flags), "send")
