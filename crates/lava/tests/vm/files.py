#!/usr/bin/env python3
# Each operation a known number of times, by several roads. Some fail: they must not be told.
import ctypes, mmap, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100


def syscall(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *arguments)


def fails(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except OSError:
        return
    sys.exit(f"{call} was to fail")


def put(path, content):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    while content:
        content = content[os.write(fd, content):]
    os.close(fd)


os.mkdir("/home/user/known")
os.chdir("/home/user/known")

# open: open, openat, openat2, creat; three times each; and twice what is not there.
put("read.txt", b"0123456789")
for _ in range(3):
    os.close(syscall(2, b"read.txt", os.O_RDONLY, 0))
    os.close(os.open("read.txt", os.O_RDONLY))
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)
    fd = syscall(437, AT_FDCWD, b"read.txt", how, ctypes.c_size_t(len(how)))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    os.close(fd)
for i in range(3):
    os.close(syscall(85, b"creat%d" % i, 0o600))
for _ in range(2):
    fails(os.open, "nothing", os.O_RDONLY)
    fails(os.open, "/etc/shadow", os.O_RDONLY)
    fails(os.open, "read.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
unnamed = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
os.write(unnamed, b"never had a name")
os.close(unnamed)

# names
for i in range(4):
    os.mkdir(f"dir{i}")
fails(os.mkdir, "dir0")
fails(os.mkdir, "/etc/dir")
for i in range(3):
    os.rmdir(f"dir{i}")
fails(os.rmdir, "nothing")
for i in range(2):
    os.symlink("read.txt", f"symlink{i}")
    os.link("read.txt", f"link{i}")
fails(os.link, "nothing", "link9")
fails(os.symlink, "read.txt", "symlink0")
os.mkfifo("fifo")
os.mknod("made", 0o644)
os.rename("link0", "renamed0")
os.rename("link1", "renamed1")
fails(os.rename, "nothing", "renamed9")
os.unlink("renamed0")
fails(os.unlink, "nothing")

# attributes
for mode in (0o600, 0o4755):
    os.chmod("read.txt", mode)
fails(os.chmod, "/etc/passwd", 0o666)
os.chown("read.txt", -1, os.getgid())
fails(os.chown, "read.txt", 0, 0)
os.truncate("read.txt", 4)
fd = os.open("read.txt", os.O_RDWR)
os.ftruncate(fd, 7)
os.close(fd)
fails(os.truncate, "/etc/passwd", 0)
os.setxattr("read.txt", "user.lava", b"1")
os.setxattr("read.txt", "user.lava", b"2")
os.removexattr("read.txt", "user.lava")
fails(os.removexattr, "read.txt", "user.lava")

# reads and writes: 5 of 3 bytes; vectored; append
fd = os.open("sums", os.O_RDWR | os.O_CREAT, 0o644)
for _ in range(5):
    os.write(fd, b"abc")
os.writev(fd, [b"de", b"fg"])
os.pwrite(fd, b"X", 100)
os.lseek(fd, 0, 0)
for _ in range(4):
    os.read(fd, 5)
os.preadv(fd, [bytearray(2), bytearray(3)], 50)
os.close(fd)
fd = os.open("sums", os.O_WRONLY | os.O_APPEND)
os.write(fd, b"end")
os.close(fd)

# a pipe between two processes
r, w = os.pipe()
print("pipe", os.fstat(r).st_ino)
if os.fork() == 0:
    os.close(w)
    while os.read(r, 100):
        pass
    os._exit(0)
os.close(r)
for _ in range(6):
    os.write(w, b"through the pipe")
os.close(w)
os.wait()

# a shared mapping
put("mapped", b"m" * 20000)
fd = os.open("mapped", os.O_RDWR)
with mmap.mmap(fd, 20000) as memory:
    memory[0] = 65
    memory[8192] = 66
    memory[8193] = 67
os.close(fd)

# within the kernel
put("source", b"s" * 5000)
a, b = os.open("source", os.O_RDONLY), os.open("sent", os.O_WRONLY | os.O_CREAT, 0o644)
assert os.sendfile(b, a, 0, 1 << 20) == 5000
os.close(b)
b = os.open("copied", os.O_WRONLY | os.O_CREAT, 0o644)
assert os.copy_file_range(a, b, 1 << 20, 0) == 5000
os.close(b)
r, w = os.pipe()
print("splice", os.fstat(r).st_ino)
b = os.open("spliced", os.O_WRONLY | os.O_CREAT, 0o644)
assert libc.splice(a, ctypes.byref(ctypes.c_long(1000)), w, None, ctypes.c_size_t(3000), 0) == 3000
assert libc.splice(r, None, b, None, ctypes.c_size_t(1 << 20), 0) == 3000
os.close(a), os.close(b), os.close(r), os.close(w)

# contents: on disk and in memory, unlinked before it is closed, a memfd
put("/tmp/kept", b"kept " * 3000)
put("large", b"".join(b"%07d " % i for i in range(400000)))
fd = os.open("/tmp/gone", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"gone " * 1000)
os.unlink("/tmp/gone")
os.close(fd)
fd = os.open("/dev/shm/shared", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"shm " * 700)
os.close(fd)
os.unlink("/dev/shm/shared")
fd = os.memfd_create("secret")
os.write(fd, b"memfd " * 900)
os.close(fd)
print("done .")
