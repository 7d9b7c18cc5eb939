"""Ignores every signal that can be ignored, in N processes of groups of their own. Arguments: N, seconds."""

import os
import signal
import sys
import time

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, signal.SIG_IGN)
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.setpgid(0, 0)
        break
time.sleep(float(sys.argv[2]))
