#!/usr/bin/env python3
# Each operation a known number of times, for processes.rs. Prints what it cannot know beforehand as `fact NAME VALUE`.
import ctypes, os, signal, socket, subprocess, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def fact(name, value):
    print(f"fact {name} {value}", flush=True)


def child(body):
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = body() or 0
        finally:
            os._exit(code)
    return pid


def wait(pid):
    return os.waitpid(pid, 0)[1]


fact("self", os.getpid())

# Three forks that exit with 10, 11, 12; one that a signal ends; two threads; one vfork.
for code in (10, 11, 12):
    assert os.waitstatus_to_exitcode(wait(child(lambda: code))) == code
killed = child(lambda: time.sleep(60))
fact("killed", killed)
os.kill(killed, 0)
os.kill(killed, signal.SIGTERM)
assert os.WTERMSIG(wait(killed)) == signal.SIGTERM
for _ in range(2):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
# subprocess takes vfork where it can.
subprocess.run(["/bin/true", "vforked"], check=True, close_fds=False)


# The first thread ends with 21 while another goes on, and ends with 22: the process's code is the last one's.
def two_codes():
    def second():
        time.sleep(0.5)
        libc.syscall(60, 22)
    threading.Thread(target=second).start()
    libc.syscall(60, 21)


two = child(two_codes)
fact("two_codes", two)
assert os.waitstatus_to_exitcode(wait(two)) == 22

# execveat of a path, fexecve of a memfd and of a deleted file, a script of a script.
def execveat():
    argv = (ctypes.c_char_p * 3)(b"true", b"execveat", None)
    return libc.syscall(322, -100, b"/bin/true", argv, (ctypes.c_char_p * 1)(None), 0)
assert wait(child(execveat)) == 0


def memfd():
    fd = os.memfd_create("stealth", 0)
    os.write(fd, open("/bin/true", "rb").read())
    os.execve(fd, ["nobody", "memfd"], {"MARK": "in memory"})
assert wait(child(memfd)) == 0
with open("inner", "w") as script:
    script.write("#!/bin/sh\nexit 5\n")
with open("outer", "w") as script:
    script.write(f"#!{os.getcwd()}/inner\n")
os.chmod("inner", 0o755)
os.chmod("outer", 0o755)
assert os.waitstatus_to_exitcode(subprocess.run(["./outer", "nested"]).returncode << 8) == 5

# Tracing an own child, by attach and by seize; one that asks for it.
ATTACH, DETACH, SEIZE = 16, 17, 0x4206
for request in (ATTACH, SEIZE):
    tracee = child(lambda: time.sleep(60))
    check(libc.ptrace(request, tracee, None, None))
    if request == ATTACH:
        os.waitpid(tracee, 0)
    os.kill(tracee, signal.SIGKILL)
    wait(tracee)
assert wait(child(lambda: check(libc.ptrace(0, 0, None, None)))) == 0
assert libc.ptrace(ATTACH, 1, None, None) == -1

# Names: by prctl, by /proc.
def names():
    libc.prctl(15, b"first-name", 0, 0, 0)
    open("/proc/self/comm", "w").write("second-name")
assert wait(child(names)) == 0

# Namespaces: a user namespace of its own, then a network and a chroot in it; a clone into new ones.
os.mkdir("jail")


def namespaces():
    check(libc.unshare(0x10000000))
    check(libc.unshare(0x40000000 | 0x04000000))
    os.chroot("jail")


unshared = child(namespaces)
fact("namespaces", wait(unshared) == 0)
def cloned():
    pid = check(libc.syscall(56, 0x10000000 | 0x20000000 | signal.SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
fact("cloned", wait(child(cloned)) == 0)

# Into the namespaces of another, one after the other; both belong to the same user.
def host():
    check(libc.unshare(0x10000000))
    check(libc.unshare(0x04000000))
    os.write(ready[1], b"1")
    os.read(done[0], 1)


def guest(of):
    for name in ("user", "uts"):
        namespace = os.open(f"/proc/{of}/ns/{name}", os.O_RDONLY)
        check(libc.setns(namespace, 0))
        os.close(namespace)


ready, done = os.pipe(), os.pipe()
lives = child(host)
os.close(ready[1])
can = os.read(ready[0], 1) == b"1"
entered = child(lambda: guest(lives)) if can else 0
fact("entered", entered if can and wait(entered) == 0 else 0)
os.write(done[1], b"1")
wait(lives)

# A file system that is attached without mount(2): fsopen, fsconfig, fsmount, move_mount.
os.mkdir("attached")


def attach():
    check(libc.unshare(0x10000000 | 0x00020000))
    filesystem = check(libc.syscall(430, b"tmpfs", 0))
    check(libc.syscall(431, filesystem, 6, None, None, 0))
    mount = check(libc.syscall(432, filesystem, 0, 0))
    check(libc.syscall(429, mount, b"", -100, b"attached", 4))


attaching = child(attach)
fact("attached", attaching if wait(attaching) == 0 else 0)

# TCP on the loopback: 3 connections, each 1000 bytes there and 500 back by different calls.
server = socket.create_server(("127.0.0.1", 0), backlog=4)
port = server.getsockname()[1]
fact("tcp_port", port)


def exactly(read, count):
    got = 0
    while got < count:
        part = read(count - got)
        assert part
        got += len(part)


def client():
    for way in range(3):
        with socket.create_connection(("127.0.0.1", port)) as c:
            if way == 0:
                c.sendall(b"a" * 600)
                c.sendall(b"b" * 400)
            elif way == 1:
                os.write(c.fileno(), b"a" * 600)
                os.writev(c.fileno(), [b"b" * 300, b"c" * 100])
            else:
                with open("payload", "wb") as f:
                    f.write(b"p" * 1000)
                with open("payload", "rb") as f:
                    sent = 0
                    while sent < 1000:
                        sent += os.sendfile(c.fileno(), f.fileno(), sent, 1000 - sent)
            exactly(c.recv, 500)


pid = child(client)
fact("tcp_client", pid)
for way in range(3):
    connection, _ = server.accept()
    if way == 1:
        exactly(lambda n: os.read(connection.fileno(), n), 1000)
    else:
        exactly(connection.recv, 1000)
    connection.sendmsg([b"d" * 200, b"e" * 300])
    connection.close()
assert wait(pid) == 0
server.close()

# A child sends to a socket of ours, which takes it.
def datagrams(name, family, host, send, take):
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.bind((host, 0))
    address = receiver.getsockname()
    fact(f"{name}_port", address[1])
    pid = child(lambda: send(address))
    fact(f"{name}_sender", pid)
    take(receiver)
    assert wait(pid) == 0
    receiver.close()


def one_by_one(family, sizes):
    def send(address):
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            for size in sizes:
                s.sendto(b"u" * size, address)
    return send


def taking(sizes):
    def take(receiver):
        assert sum(len(receiver.recvfrom(2048)[0]) for _ in sizes) == sum(sizes)
    return take


# A child connects to a server of ours, which answers and goes.
def exchange(name, server, there, back):
    def client():
        with socket.socket(server.family) as c:
            c.connect(server.getsockname())
            c.sendall(b"q" * there)
            exactly(c.recv, back)
    pid = child(client)
    fact(name, pid)
    connection, _ = server.accept()
    exactly(connection.recv, there)
    connection.sendall(b"r" * back)
    connection.close()
    assert wait(pid) == 0
    server.close()


# UDP: 5 datagrams without a connection, one of them empty, received by another process.
FIVE = (10, 20, 0, 30, 40)
datagrams("udp", socket.AF_INET, "127.0.0.1", one_by_one(socket.AF_INET, FIVE), taking(FIVE))

# IPv6 on the loopback: TCP with 200 bytes there and 300 back, UDP with 3 datagrams.
six = socket.create_server(("::1", 0), family=socket.AF_INET6)
fact("tcp6_port", six.getsockname()[1])
exchange("tcp6_client", six, 200, 300)
THREE = (11, 22, 33)
datagrams("udp6", socket.AF_INET6, "::1", one_by_one(socket.AF_INET6, THREE), taking(THREE))

# Several datagrams in one call: sendmmsg and recvmmsg, 4 of 7 bytes each.
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("parts", ctypes.POINTER(Part)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                ("flags", ctypes.c_int)]


class Message(ctypes.Structure):
    _fields_ = [("header", Header), ("bytes", ctypes.c_uint)]


def messages():
    parts = [Part(b"m" * 7, 7) for _ in range(4)]
    return (Message * 4)(*(Message(Header(None, 0, ctypes.pointer(part), 1, None, 0, 0), 0) for part in parts))


def at_once(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(address)
        assert check(libc.sendmmsg(s.fileno(), messages(), 4, 0)) == 4


def all_at_once(receiver):
    assert check(libc.recvmmsg(receiver.fileno(), messages(), 4, 0, None)) == 4


datagrams("many", socket.AF_INET, "127.0.0.1", at_once, all_at_once)

# Unix: a pair (700 bytes in 7 sends), and a named server (50 there, 60 back).
ours, theirs = socket.socketpair()
def pair():
    ours.close()
    for _ in range(7):
        theirs.send(b"x" * 100)
pid = child(pair)
fact("pair_sender", pid)
theirs.close()
exactly(ours.recv, 700)
assert wait(pid) == 0
ours.close()
named = socket.socket(socket.AF_UNIX)
named.bind("named.sock")
named.listen()
exchange("unix_client", named, 50, 60)

# A flow that leaves the machine, once the machine has its address.
for _ in range(600):
    if any(line.split()[1] != "Destination" for line in open("/proc/net/route") if not line.startswith("lo")):
        break
    time.sleep(0.1)
pid = child(lambda: socket.socket().connect_ex(("10.77.0.3", 22)) * 0)
fact("flow", pid)
wait(pid)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.sendto(b"hello", ("10.77.0.4", 9999))
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
netlink.close()
fact("done", 1)
