"""Makes a file of 1 TB that holds nothing. Prints its size."""

import os

with open("large", "wb") as file:
    file.truncate(2**40)
print("reached", os.stat("large").st_size)
