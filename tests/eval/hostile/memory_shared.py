"""Takes 3 GB of shared memory that belongs to no file. Prints how many MiB it got."""

import mmap

held = []
for megabytes in range(16, 3001, 16):
    area = mmap.mmap(-1, 2**24)
    area.write(b"x" * 2**24)
    held.append(area)
    print("reached", megabytes, flush=True)
