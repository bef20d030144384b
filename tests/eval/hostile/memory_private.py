"""Takes 3 GB of private memory. Prints how many MiB it got."""

held = []
for megabytes in range(16, 3001, 16):
    held.append(b"x" * 2**24)
    print("reached", megabytes, flush=True)
