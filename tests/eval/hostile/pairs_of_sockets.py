"""Has 12 processes open all the pairs of sockets that they may, and rests for 5 s; bounded to 256 files each."""

import os
import socket
import time

for _ in range(12):
    if not os.fork():
        held = []
        try:
            while len(held) < 128:
                held.append(socket.socketpair())
        except OSError:
            pass
        time.sleep(5)
        os._exit(0)
time.sleep(5)
