"""Reads with blocking recv() while signals arrive; answers each byte that it got.

blocking_reader.py ADDRESS:PORT

The handler is installed as most programs have it, with SA_RESTART: TCP starts an interrupted
recv() again, so the program never learns of the signal there.
"""

import signal
import socket
import sys

INTERVAL_S = 0.002


def main():
    host, _, port = sys.argv[1].partition(":")
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, INTERVAL_S, INTERVAL_S)
    with socket.create_server((host, int(port))) as listener:
        while True:
            sock, _ = listener.accept()
            with sock:
                try:
                    while data := sock.recv(1 << 16):
                        sock.sendall(data)
                except OSError as error:
                    print(f"recv: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
