"""Connects to a server of this machine, and listens itself. Prints how often that succeeded."""

import os
import socket

done = 0
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    try:
        with socket.socket(family) as client:
            client.settimeout(1)
            client.connect((address, int(os.environ["TCP_PORT"])))
            client.sendall(b"hello")
            done += 1
    except OSError:
        pass
try:
    with socket.create_server(("0.0.0.0", 0)):
        done += 1
except OSError:
    pass
print("reached", done)
