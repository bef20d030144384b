"""Connects to a Unix socket that has a name but no file. Prints how often that succeeded."""

import os
import socket

with socket.socket(socket.AF_UNIX) as client:
    client.connect("\0" + os.environ["SOCKET_NAME"])
    client.sendall(b"hello")
print("reached 1")
