"""A TCP proxy that moves bytes with splice(), one thread for each direction.

splicer.py LISTEN-ADDRESS:PORT TARGET-ADDRESS:PORT
"""

import os
import socket
import sys
import threading


def address(text):
    host, _, port = text.partition(":")
    return host, int(port)


def forward(source, target):
    reader, writer = os.pipe()
    try:
        while count := os.splice(source.fileno(), writer, 1 << 16):
            while count:
                count -= os.splice(reader, target.fileno(), count)
        target.shutdown(socket.SHUT_WR)
    finally:
        os.close(reader)
        os.close(writer)


def main():
    with socket.create_server(address(sys.argv[1])) as listener:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(address(sys.argv[2]))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=forward, args=ends, daemon=True).start()


if __name__ == "__main__":
    # Python 3.11 has os.splice; sockets stay blocking: this is about splice alone.
    main()
