#!/usr/bin/env python3
import ctypes, os, signal, struct, time

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PRIVATE, SHARED, ANONYMOUS = 2, 1, 0x20
RET = b"\xc3"

def run(address, *arguments):
    return ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * len(arguments))(address)(*arguments)

# Writable and executable, run twice.
rwx = libc.mmap(None, 4096, 7, PRIVATE | ANONYMOUS, -1, 0)
ctypes.memmove(rwx, RET, 1)
run(rwx)
run(rwx)

# Written first, made executable then.
rx = libc.mmap(None, 8192, 3, PRIVATE | ANONYMOUS, -1, 0)
ctypes.memmove(rx, RET, 1)
libc.mprotect(rx, 8192, 5)
run(rx)

# A file that is memory only.
fd = os.memfd_create("payload")
os.write(fd, RET * 16)
run(libc.mmap(None, 4096, 5, SHARED, fd, 0))

# A system call with the stack pointer in the heap: push %rbx; mov %rsp,%rbx; mov %rdi,%rsp; mov $319,%eax; mov %rsi,%rdi;
# xor %esi,%esi; syscall; mov %rbx,%rsp; pop %rbx; ret
heap = ctypes.create_string_buffer(65536)
name = ctypes.create_string_buffer(b"pivoted")
ctypes.memmove(rwx, bytes.fromhex("534889e34889fcb83f0100004889f731f60f054889dc5bc3"), 24)
run(rwx, ctypes.addressof(heap) + 32768, ctypes.addressof(name))

# Into a child, by three roads.
victim = ctypes.create_string_buffer(b"v" * 64)
address = ctypes.addressof(victim)
child = os.fork()
if child == 0:
    while True:
        time.sleep(1)
word = struct.pack("QQ", address, 8)
libc.process_vm_writev(child, word, 1, word, 1, 0)
with open(f"/proc/{child}/mem", "r+b", buffering=0) as memory:
    os.pwrite(memory.fileno(), b"w" * 16, address)
libc.ptrace(16, child, None, None)
os.waitpid(child, 0)
libc.ptrace(5, child, address, 0x41414141)
libc.ptrace(17, child, None, None)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print("done", hex(rwx), hex(rx), hex(address), child)
