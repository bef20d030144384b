"""Does nothing for 20 s."""

import time

time.sleep(20)
