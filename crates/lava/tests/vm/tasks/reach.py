"""What can be reached from here of what the test offers on the host: a TCP port, an abstract Unix socket, a process."""
import os
import socket
import sys

port, name, pid = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def tcp():
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def unix():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + name)


for what, attempt in ("tcp", tcp), ("unix", unix), ("process", lambda: os.kill(pid, 0)):
    try:
        attempt()
        print(what)
    except OSError:
        pass
print("interfaces:", *(name for _, name in socket.if_nameindex()))
