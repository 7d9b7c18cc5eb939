"""It and its children fork until N were born, and stay. Arguments: N, seconds, maybe "setsid"."""

import mmap
import os
import signal
import sys
import time

most, seconds, new_session = int(sys.argv[1]), float(sys.argv[2]), "setsid" in sys.argv[3:]
end = time.monotonic() + seconds
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
born = mmap.mmap(-1, most)  # one byte for each birth; counting is rough, the bound is not: no byte, no birth
while time.monotonic() < end:
    number = born.find(b"\0")
    if number < 0:
        time.sleep(max(0.0, end - time.monotonic()))
        break
    born[number] = 1
    if os.fork() == 0 and new_session:
        os.setsid()
    time.sleep(0.005)
