/* A disk that fails, for one program: preloaded (LD_PRELOAD), it lets calls on files below the folder in DISK_FOLDER fail with EIO while the file named by
   DISK_FAILS is there. Its letters say which: w writing, s the sync of a file, f the sync of a folder, r renaming. With h the next sync of a file
   never ends; the file that said so is removed then. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* By system calls alone, since the functions are those below. */
static int path_fails(char call, const char *path)
{
    const char *folder = getenv("DISK_FOLDER"), *orders = getenv("DISK_FAILS");
    char letters[8] = "";
    int before = errno;
    if (!folder || !orders || strncmp(path, folder, strlen(folder)) != 0)
        return 0;
    int file = (int)syscall(SYS_openat, AT_FDCWD, orders, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (syscall(SYS_read, file, letters, sizeof letters - 1) < 0)
            letters[0] = 0;
        syscall(SYS_close, file);
    }
    int fails = strchr(letters, call) != NULL;
    errno = fails ? EIO : before;
    return fails;
}

static int fails(char call, int file)
{
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int before = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return path_fails(call, path);
}

static int sync_fails(int file)
{
    struct stat found;
    if (fails('h', file)) {
        unlink(getenv("DISK_FAILS"));
        for (;;)
            pause();
    }
    return fails(fstat(file, &found) == 0 && S_ISDIR(found.st_mode) ? 'f' : 's', file);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t count)
{
    return fails('w', file) ? -1 : REAL(write)(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    return fails('w', file) ? -1 : REAL(writev)(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at)
{
    return fails('w', file) ? -1 : REAL(pwrite)(file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at)
{
    return fails('w', file) ? -1 : REAL(pwrite64)(file, bytes, count, at);
}

int fsync(int file)
{
    return sync_fails(file) ? -1 : REAL(fsync)(file);
}

int fdatasync(int file)
{
    return sync_fails(file) ? -1 : REAL(fdatasync)(file);
}

int rename(const char *from, const char *to)
{
    return path_fails('r', to) ? -1 : REAL(rename)(from, to);
}
