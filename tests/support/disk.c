/* A disk that a test can hold, and whose syncs it can count. Preloaded into a gateway by
 * tests/it/disk.rs: the variable DISK_CONTROL names a file of three numbers. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SYNCS = 1, READS = 2 };

static struct control {
    _Atomic int64_t hold;   /* SYNCS and READS: what does not return for now */
    _Atomic int64_t synced; /* syncs that have returned */
    _Atomic int64_t held;   /* calls that do not return for now */
} *control;

__attribute__((constructor)) static void open_control(void) {
    const char *path = getenv("DISK_CONTROL");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *at = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at != MAP_FAILED)
        control = at;
    close(file);
}

static void wait_for(int what) {
    if (!control || !(control->hold & what))
        return;
    const struct timespec moment = {0, 1000000};
    control->held++;
    while (control->hold & what)
        nanosleep(&moment, 0);
    control->held--;
}

static int done(long result) {
    if (control)
        control->synced++;
    return (int)result;
}

int fsync(int fd) {
    wait_for(SYNCS);
    return done(syscall(SYS_fsync, fd));
}

int fdatasync(int fd) {
    wait_for(SYNCS);
    return done(syscall(SYS_fdatasync, fd));
}

/* Only the store reads files by their names in this way: sockets are read by other calls. */
static void wait_for_store(int fd) {
    if (!control || !(control->hold & READS))
        return;
    char link[64] = "/proc/thread-self/fd/", name[4096], digits[12];
    size_t at = sizeof digits;
    digits[--at] = 0;
    do
        digits[--at] = (char)('0' + fd % 10);
    while (fd /= 10);
    strcat(link, digits + at);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0)
        return;
    name[length] = 0;
    if (strstr(name, ".db"))
        wait_for(READS);
}

ssize_t read(int fd, void *bytes, size_t count) {
    wait_for_store(fd);
    return syscall(SYS_read, fd, bytes, count);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t offset) {
    wait_for_store(fd);
    return syscall(SYS_pread64, fd, bytes, count, offset);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t offset) {
    wait_for_store(fd);
    return syscall(SYS_pread64, fd, bytes, count, offset);
}
