"""Becomes a daemon by the book: double fork, own session, / as directory, no streams. Argument: seconds."""

import os
import sys
import time

there, here = os.pipe()
if os.fork() > 0:
    os.close(here)
    os.read(there, 1)  # until the daemon has let go of it
    os._exit(0)
os.setsid()
if os.fork() > 0:
    os._exit(0)
os.chdir("/")
null = os.open(os.devnull, os.O_RDWR)
for stream in range(3):
    os.dup2(null, stream)
os.close(here)
time.sleep(float(sys.argv[1]))
