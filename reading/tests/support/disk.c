/* In the place of the C library's: they fail or hang while a file of a name is there. */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_there(const char *variable) {
    const char *file = getenv(variable);
    return file && access(file, F_OK) == 0;
}

static int sync_by(long call, int fd) {
    while (is_there("VEILSTREAM_DISK_HANGS")) {
        usleep(10000);
    }
    if (is_there("VEILSTREAM_DISK_FAILS")) {
        errno = EIO;
        return -1;
    }
    return syscall(call, fd);
}

int fdatasync(int fd) {
    return sync_by(SYS_fdatasync, fd);
}

int fsync(int fd) {
    return sync_by(SYS_fsync, fd);
}
