// The known-count program: does each operation N times by every road into the kernel, and says exactly what it did.
//
//   known-count N DIRECTORY [HELPER]
//
// Every road has names of its own, so that what an observer tells can be counted per road: DIRECTORY/ROAD.NUMBER for
// files, argument 1 for programs (HELPER, which does nothing), a port of its own for connections. The counts are printed as
// one line of JSON on standard output; they count what the kernel said succeeded. Exit code 1 if a road failed.
//
// Harmless: it writes into DIRECTORY alone, and connects to the loopback interface.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, SIZE = 3 * PAGE };

static int n, failures, first = 1;
static const char *helper;
extern char **environ;

static void told(const char *road, int count) {
    printf("%s\"%s\":%d", first ? "" : ",", road, count);
    first = 0;
    if (count != n) {
        failures++;
        fprintf(stderr, "known-count: %s: %d of %d\n", road, count, n);
    }
}

// Names are relative to the working directory, which is DIRECTORY.
static const char *name(const char *road, int i) {
    static char buffers[4][128];
    static int turn;
    char *buffer = buffers[turn++ % 4];
    snprintf(buffer, sizeof buffers[0], "%s.%d", road, i);
    return buffer;
}

static int made(long fd) {
    if (fd >= 0) close((int)fd);
    return fd >= 0;
}

static void file_by_libc(const char *path) {
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, SIZE)) failures++;
    close(fd);
}

#define REPEAT(road, what)                                  \
    do {                                                    \
        int count = 0;                                      \
        for (int i = 0; i < n; i++) count += (what) ? 1 : 0; \
        told(road, count);                                  \
    } while (0)

static void opens(void) {
    const int flags = O_CREAT | O_WRONLY | O_CLOEXEC;
    struct open_how how = {.flags = (uint64_t)flags, .mode = 0644};
    REPEAT("open", made(syscall(SYS_open, name("open", i), flags, 0644)));
    REPEAT("openat", made(syscall(SYS_openat, AT_FDCWD, name("openat", i), flags, 0644)));
    REPEAT("openat2", made(syscall(SYS_openat2, AT_FDCWD, name("openat2", i), &how, sizeof how)));
    REPEAT("creat", made(syscall(SYS_creat, name("creat", i), 0644)));
}

// The path stands in a page of a file that was mapped a moment ago and never touched: reading it from outside at the
// entry of the system call fails, the kernel itself faults it in.
static void unmapped_paths(void) {
    int fd = open("paths", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, (off_t)n * PAGE)) failures++;
    for (int i = 0; i < n; i++) {
        const char *path = name("unmapped", i);
        if (pwrite(fd, path, strlen(path) + 1, (off_t)i * PAGE) < 0) failures++;
    }
    int count = 0;
    for (int i = 0; i < n; i++) {
        char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, (off_t)i * PAGE);
        if (page == MAP_FAILED) continue;
        count += made(syscall(SYS_open, page, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        munmap(page, PAGE);
    }
    close(fd);
    told("unmapped", count);
}

static int run(const char *road, int i, int way) {
    char number[16];
    snprintf(number, sizeof number, "%d", i);
    char *argv[] = {"nothing", (char *)road, number, NULL};
    char *envp[] = {NULL};
    pid_t child;
    int fd = -1, status = -1;
    if (way == 1 || way == 2) fd = open(helper, O_PATH | O_CLOEXEC);
    if (way == 4) {
        if (posix_spawn(&child, helper, NULL, NULL, argv, envp)) return 0;
    } else {
        child = way == 3 ? vfork() : fork();
        if (child == 0) {
            if (way == 1) syscall(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH);
            else if (way == 2) fexecve(fd, argv, envp);
            else syscall(SYS_execve, helper, argv, envp);
            _exit(127);
        }
    }
    if (fd >= 0) close(fd);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void execs(void) {
    REPEAT("execve", run("execve", i, 0));
    REPEAT("execveat", run("execveat", i, 1));
    REPEAT("fexecve", run("fexecve", i, 2));
    REPEAT("vfork", run("vfork", i, 3));
    REPEAT("posix_spawn", run("posix_spawn", i, 4));
}

// The 32-bit system call gate; pointers have to lie below 4 GiB. Numbers: arch/x86/entry/syscalls/syscall_32.tbl.
static long gate(long number, const void *a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static void gates(void) {
    char *low = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) {
        failures++;
        return;
    }
    char *other = low + 512;
#define LOW(road) (strcpy(low, name(road, i)), low)
#define OTHER(road) ((long)(uintptr_t)(strcpy(other, name(road, i)), other))
    REPEAT("int80-open", made(gate(5, LOW("int80-open"), O_CREAT | O_WRONLY, 0644)));
    REPEAT("int80-rename", gate(38, LOW("int80-open"), OTHER("int80-renamed"), 0) == 0);
    REPEAT("int80-unlink", gate(10, LOW("int80-renamed"), 0, 0) == 0);
    munmap(low, PAGE);
}

static void names_change(void) {
    for (int i = 0; i < n; i++) file_by_libc(name("old", i));
    REPEAT("rename", syscall(SYS_rename, name("old", i), name("rename", i)) == 0);
    REPEAT("renameat", syscall(SYS_renameat, AT_FDCWD, name("rename", i), AT_FDCWD, name("renameat", i)) == 0);
    REPEAT("renameat2", syscall(SYS_renameat2, AT_FDCWD, name("renameat", i), AT_FDCWD, name("renameat2", i), 1) == 0);
    REPEAT("link", syscall(SYS_link, name("renameat2", i), name("link", i)) == 0);
    REPEAT("symlink", syscall(SYS_symlink, "nowhere", name("symlink", i)) == 0);
    REPEAT("mkdir", syscall(SYS_mkdir, name("mkdir", i), 0755) == 0);
    REPEAT("mknod", syscall(SYS_mknod, name("mknod", i), S_IFIFO | 0644, 0) == 0);
    REPEAT("chmod", syscall(SYS_chmod, name("renameat2", i), 0600) == 0);
    REPEAT("unlink", syscall(SYS_unlink, name("renameat2", i)) == 0);
    REPEAT("unlinkat", syscall(SYS_unlinkat, AT_FDCWD, name("link", i), 0) == 0);
    REPEAT("rmdir", syscall(SYS_rmdir, name("mkdir", i)) == 0);
}

// io_uring without a library: one entry at a time. Every second one is done by the kernel's worker threads.
static struct {
    int fd;
    unsigned *tail, *mask, *array, *done_head, *done_tail, *done_mask;
    struct io_uring_sqe *entries;
    struct io_uring_cqe *done;
} ring;

static int ring_set_up(void) {
    struct io_uring_params p = {0};
    ring.fd = (int)syscall(SYS_io_uring_setup, 8, &p);
    if (ring.fd < 0) return 0;
    size_t queue = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    size_t done = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *sq = mmap(NULL, queue, prot, flags, ring.fd, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, done, prot, flags, ring.fd, IORING_OFF_CQ_RING);
    ring.entries = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), prot, flags, ring.fd, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || ring.entries == MAP_FAILED) return 0;
    ring.tail = (unsigned *)(sq + p.sq_off.tail);
    ring.mask = (unsigned *)(sq + p.sq_off.ring_mask);
    ring.array = (unsigned *)(sq + p.sq_off.array);
    ring.done_head = (unsigned *)(cq + p.cq_off.head);
    ring.done_tail = (unsigned *)(cq + p.cq_off.tail);
    ring.done_mask = (unsigned *)(cq + p.cq_off.ring_mask);
    ring.done = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    return 1;
}

static int ring_do(struct io_uring_sqe entry, int i) {
    unsigned tail = *ring.tail, slot = tail & *ring.mask;
    if (i % 2) entry.flags |= IOSQE_ASYNC;
    ring.entries[slot] = entry;
    ring.array[slot] = slot;
    __atomic_store_n(ring.tail, tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) return -errno;
    unsigned head = *ring.done_head;
    if (head == __atomic_load_n(ring.done_tail, __ATOMIC_ACQUIRE)) return -EIO;
    int result = ring.done[head & *ring.done_mask].res;
    __atomic_store_n(ring.done_head, head + 1, __ATOMIC_RELEASE);
    return result;
}

static int ring_open(const char *path, int i) {
    struct io_uring_sqe entry = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)path, .len = 0644,
                                 .open_flags = O_CREAT | O_WRONLY | O_CLOEXEC};
    return made(ring_do(entry, i));
}

static int ring_rename(const char *from, const char *to, int i) {
    struct io_uring_sqe entry = {.opcode = IORING_OP_RENAMEAT, .fd = AT_FDCWD, .addr = (uintptr_t)from,
                                 .len = (unsigned)AT_FDCWD, .addr2 = (uintptr_t)to};
    return ring_do(entry, i) == 0;
}

static int ring_unlink(const char *path, int i) {
    struct io_uring_sqe entry = {.opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (uintptr_t)path};
    return ring_do(entry, i) == 0;
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return to;
}

// UDP: its connect is done in one step. A TCP connect that does not block is asked for again by io_uring itself, any number
// of times, so that it has no count to be known.
static int joined(int port, int by_ring, int i) {
    struct sockaddr_in to = loopback(port);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), result;
    if (by_ring) {
        struct io_uring_sqe entry = {.opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&to, .off = sizeof to};
        result = ring_do(entry, i);
    } else {
        result = (int)syscall(SYS_connect, fd, &to, sizeof to);
    }
    close(fd);
    return result == 0;
}

static int refused(int port) {
    struct sockaddr_in to = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int result = connect(fd, (struct sockaddr *)&to, sizeof to);
    int error = errno;
    close(fd);
    return result < 0 && error == ECONNREFUSED;
}

static void rings(void) {
    if (!ring_set_up()) {
        fprintf(stderr, "known-count: this kernel allows no io_uring: %s\n", strerror(errno));
        failures++;
        return;
    }
    REPEAT("uring-open", ring_open(name("uring-open", i), i));
    REPEAT("uring-rename", ring_rename(name("uring-open", i), name("uring-renamed", i), i));
    REPEAT("uring-unlink", ring_unlink(name("uring-renamed", i), i));
    REPEAT("uring-connect", joined(22000 + i, 1, i));
    close(ring.fd);
}

static int copied(int from, const char *road, int i) {
    int to = open(name(road, i), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644), channel[2];
    off_t at = 0;
    loff_t in = 0, out = 0;
    ssize_t done = -1;
    if (!strcmp(road, "sendfile")) {
        done = sendfile(to, from, &at, SIZE);
    } else if (!strcmp(road, "copy_file_range")) {
        done = syscall(SYS_copy_file_range, from, &in, to, &out, (size_t)SIZE, 0);
    } else if (pipe(channel) == 0) {
        if (splice(from, &in, channel[1], NULL, SIZE, 0) == SIZE) done = splice(channel[0], NULL, to, &out, SIZE, 0);
        close(channel[0]);
        close(channel[1]);
    }
    close(to);
    return done == SIZE;
}

// The first and the third page are stored to, the second is not.
static int stored(int i) {
    int fd = open(name("stored", i), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644), done = 0;
    if (fd >= 0 && ftruncate(fd, SIZE) == 0) {
        volatile char *pages = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (pages != MAP_FAILED) {
            pages[1] = 1;
            pages[2 * PAGE + 1] = 1;
            munmap((void *)pages, SIZE);
            done = 1;
        }
    }
    close(fd);
    return done;
}

static void contents(void) {
    char buffer[SIZE];
    memset(buffer, 'k', sizeof buffer);
    int from = open("source", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);
    if (write(from, buffer, sizeof buffer) != SIZE) failures++;
    REPEAT("sendfile", copied(from, "sendfile", i));
    REPEAT("splice", copied(from, "splice", i));
    REPEAT("copy_file_range", copied(from, "copy_file_range", i));
    REPEAT("stored", stored(i));
    close(from);
}

// Another thread swaps the name in the buffer while the kernel is asked to open it. What was really opened the kernel says
// afterwards, by the open file's own path.
static char swapped[64];
static atomic_int swapping;

static void *swap(void *unused) {
    (void)unused;
    for (unsigned turn = 0; atomic_load(&swapping); turn++) memset(swapped + sizeof "swap/" - 1, turn % 2 ? 'a' : 'b', 8);
    return NULL;
}

static void swaps(void) {
    pthread_t other;
    mkdir("swap", 0755);
    strcpy(swapped, "swap/aaaaaaaa");
    atomic_store(&swapping, 1);
    if (pthread_create(&other, NULL, swap, NULL)) failures++;
    char list[PAGE * 8] = "";
    size_t used = 0;
    int count = 0;
    for (int i = 0; i < n; i++) {
        long fd = syscall(SYS_openat, AT_FDCWD, swapped, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        char link[64], path[PAGE];
        snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
        ssize_t length = fd < 0 ? -1 : readlink(link, path, sizeof path - 1);
        if (length < 0) continue;
        path[length] = 0;
        const char *base = strrchr(path, '/') + 1;
        if (used + 16 < sizeof list) used += (size_t)snprintf(list + used, sizeof list - used, "%s\"%s\"", used ? "," : "", base);
        count++;
        close((int)fd);
    }
    atomic_store(&swapping, 0);
    pthread_join(other, NULL);
    told("swapped", count);
    printf("},\"swapped\":[%s]", list);
}

int main(int argc, char **argv) {
    if (argc < 3 || (n = atoi(argv[1])) < 1 || n > 500) {
        fprintf(stderr, "usage: known-count N(1..500) DIRECTORY [HELPER]\n");
        return 2;
    }
    helper = argc > 3 ? argv[3] : "/opt/scenario/bin/nothing";
    if (mkdir(argv[2], 0755) || chdir(argv[2])) {
        perror(argv[2]);
        return 2;
    }
    printf("{\"n\":%d,\"roads\":{", n);
    fflush(stdout);
    opens();
    unmapped_paths();
    execs();
    gates();
    names_change();
    rings();
    REPEAT("connect", joined(20000 + i, 0, i));
    REPEAT("connect-tcp", refused(21000 + i));
    contents();
    swaps();
    printf(",\"failures\":%d}\n", failures);
    return failures ? 1 : 0;
}
