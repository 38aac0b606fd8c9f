/* In the place of the C library's: it fails or hangs while a file of a name is there. */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_there(const char *variable) {
    const char *file = getenv(variable);
    return file && access(file, F_OK) == 0;
}

int fdatasync(int fd) {
    while (is_there("VEILSTREAM_DISK_HANGS")) {
        usleep(10000);
    }
    if (is_there("VEILSTREAM_DISK_FAILS")) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_fdatasync, fd);
}
