"""Makes directories within directories, deeper than any path can name, the last of them closed. Prints the depth."""

import os

depth = 0
try:
    while depth < 2100:
        os.mkdir("d")
        os.chdir("d")
        depth += 1
finally:
    os.chmod("..", 0)
    print("reached", depth)
