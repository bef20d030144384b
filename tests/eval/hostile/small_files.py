"""Makes empty files without end, for 3 s. Prints how many it got."""

import os
import time

end = time.monotonic() + 3
number = 0
while time.monotonic() < end and number < 300_000:
    os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY))
    number += 1
    if number % 1000 == 0:
        print("reached", number, flush=True)
