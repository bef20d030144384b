"""Makes empty files without end, up to 12,000, and rests for 5 s. Prints how many it got."""

import os
import time

number = 0
while number < 12_000:
    os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY))
    number += 1
    if number % 1000 == 0:
        print("reached", number, flush=True)
time.sleep(5)
