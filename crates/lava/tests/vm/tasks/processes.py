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

# UDP: 5 datagrams without a connection, one of them empty, received by another process.
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
udp = receiver.getsockname()
fact("udp_port", udp[1])
def datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for size in (10, 20, 0, 30, 40):
            s.sendto(b"u" * size, udp)
pid = child(datagrams)
fact("udp_sender", pid)
assert sum(len(receiver.recvfrom(2048)[0]) for _ in range(5)) == 100
assert wait(pid) == 0
receiver.close()

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
def unix_client():
    with socket.socket(socket.AF_UNIX) as c:
        c.connect("named.sock")
        c.sendall(b"q" * 50)
        exactly(c.recv, 60)
pid = child(unix_client)
fact("unix_client", pid)
connection, _ = named.accept()
exactly(connection.recv, 50)
connection.sendall(b"r" * 60)
connection.close()
assert wait(pid) == 0
named.close()

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
