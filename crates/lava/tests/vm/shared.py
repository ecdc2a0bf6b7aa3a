#!/usr/bin/env python3
# As root: shares memory with one process that is not the task's child, and writes into another.
import ctypes, os, subprocess, time

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]

segment = libc.shmget(0x1ab0, 4096, 0o1600)
ctypes.memmove(libc.shmat(segment, None, 0), b"from the task", 13)

READER = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
open('/tmp/reader-before', 'w').close()
read = ctypes.string_at(libc.shmat(libc.shmget(0x1ab0, 4096, 0), None, 0o10000), 13)
open('/tmp/reader-after', 'w').write(read.decode())
time.sleep(60)
"""
VICTIM = """
import os, time
with open('/tmp/victim.new', 'w') as file: file.write(str(os.getpid()))
os.rename('/tmp/victim.new', '/tmp/victim')
while not os.path.exists('/run/go'): time.sleep(0.1)
open('/tmp/victim-after', 'w').close()
time.sleep(60)
"""


def start(program):
    # Its parent is systemd, and it reads no file of the task's.
    subprocess.run(["systemd-run", "--no-block", "--quiet", "/usr/bin/python3", "-c", program], check=True)


def wait(path):
    while not os.path.exists(path):
        time.sleep(0.1)


start(READER)
wait("/tmp/reader-after")
start(VICTIM)
wait("/tmp/victim")
victim = int(open("/tmp/victim").read())
heap = next(line for line in open(f"/proc/{victim}/maps") if "[heap]" in line)
word = (ctypes.c_uint64 * 1)(0x4141414141414141)
local = (ctypes.c_uint64 * 2)(ctypes.addressof(word), 8)
# The end of the heap, which nobody uses yet.
remote = (ctypes.c_uint64 * 2)(int(heap.split("-")[1].split(" ")[0], 16) - 64, 8)
assert libc.process_vm_writev(victim, local, 1, remote, 1, 0) == 8
open("/run/go", "w").close()
wait("/tmp/victim-after")
print("done", open("/tmp/reader-after").read())
