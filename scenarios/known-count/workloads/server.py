"""A server that forks a process per connection (TCP and Unix), and its clients, each a process."""
import os
import socket
import socketserver
import threading


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        name = self.rfile.readline().decode().strip()
        with open("served-" + name, "w") as file:
            file.write("served\n")
        os.rename("served-" + name, "done-" + name)
        self.wfile.write(b"done\n")


class Tcp(socketserver.ForkingMixIn, socketserver.TCPServer):
    allow_reuse_address = True


class Unix(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    pass


def client(number, family, address):
    child = os.fork()
    if child == 0:
        with socket.socket(family) as connection:
            connection.connect(address)
            connection.sendall(b"%d\n" % number)
            assert connection.recv(16) == b"done\n"
        os._exit(0)
    return child


def refused(family, address):
    with socket.socket(family) as connection:
        try:
            connection.connect(address)
        except OSError as error:
            print(error)


servers = [(socket.AF_INET, Tcp(("127.0.0.1", 7301), Handler)), (socket.AF_UNIX, Unix("socket", Handler))]
threads = [threading.Thread(target=server.serve_forever) for _, server in servers]
for thread in threads:
    thread.start()
children = [client(10 * i + j, *(servers[j][0], servers[j][1].server_address)) for i in range(6) for j in range(2)]
assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
for _, server in servers:
    server.shutdown()
    server.server_close()
refused(socket.AF_INET, ("127.0.0.1", 7302))
refused(socket.AF_UNIX, "nothing")
refused(socket.AF_UNIX, "\0abstract")
with socket.socket(socket.AF_INET6) as six, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    six.bind(("::1", 7303))
    datagrams.bind(("127.0.0.1", 0))
    datagrams.connect(("127.0.0.1", 7304))
    try:
        datagrams.bind(("192.0.2.1", 1))
    except OSError as error:
        print(error)
with socket.socket(socket.AF_UNIX) as abstract:
    abstract.bind("\0known-count")
os.unlink("socket")
