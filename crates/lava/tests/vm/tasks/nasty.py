#!/usr/bin/python3
"""Uses up what the guest has: network, disk, processes, memory. The fork bomb goes on when this has been killed for its memory."""
import os
import socket
import subprocess
import time

end, sent = time.monotonic() + 3, 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    while time.monotonic() < end:
        try:
            s.sendto(b"x" * 1400, ("10.77.0.1", 1000 + sent % 60000))
        except OSError:
            pass
        sent += 1
print("flood:", "sent" if sent > 100 else sent, flush=True)

size = 1 << 33
with open("/home/user/fill", "wb") as f:
    while size > 4096:
        try:
            os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, size)
        except OSError:
            size //= 2
try:
    with open("/home/user/more", "wb") as f:
        f.write(b"x" * (1 << 20))
    print("disk: not full", flush=True)
except OSError as error:
    print("disk:", error.strerror, flush=True)

subprocess.Popen(["sh", "-c", "b() { b | b & }; b"], stderr=subprocess.DEVNULL)
time.sleep(4)
print("bomb: lit", flush=True)

# Be the one that the kernel kills: a guest that goes on without memory takes its whole time, and the test's.
with open("/proc/self/oom_score_adj", "w") as f:
    f.write("1000")
hog = []
while True:
    hog.append(b"x" * (1 << 20))
