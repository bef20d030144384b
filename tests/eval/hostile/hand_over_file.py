"""Puts a deleted file in a pair of sockets, where it takes disk that no process has open. Prints whether it could."""

import array
import os
import socket

file = os.open("0", os.O_RDWR | os.O_CREAT)
os.unlink("0")
ours, theirs = socket.socketpair()
try:
    ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))])
    print("reached 1")
except OSError:
    print("reached 0")
