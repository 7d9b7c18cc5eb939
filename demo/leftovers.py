"""Looks for processes that a demonstration has left behind. Standard library only, knows nothing of fastproc.

A process comes from there if the nonce is in its environment or its arguments, or if its directory, program
or an open file lies below $WORK. Not counted are this scan and those that wait for it. Zombies have neither
environment nor files; they count if their parent is one of those that wait, except for init, which reaps what
it has inherited when it likes. Exits 1 if there is any.
"""

import os
import sys
import time

PATIENCE = 1.0  # seconds; init may take a moment to reap what it has inherited


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def stat_of(pid):
    """State and parent; the name may have blanks and brackets in it, what counts begins behind the last."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (fields[0].decode(), int(fields[1])) if len(fields) > 1 else ("", 0)


def lineage():
    """This process and its ancestors."""
    pids, pid = set(), os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        pid = stat_of(pid)[1]
    return pids


def marks(pid, nonce, work):
    """Why this process is one of those."""
    if f"FASTPROC_DEMO={nonce}".encode() in read(f"/proc/{pid}/environ").split(b"\0"):
        yield "environment"
    if nonce.encode() in read(f"/proc/{pid}/cmdline"):
        yield "arguments"
    try:
        links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        links = []
    links += [f"/proc/{pid}/cwd", f"/proc/{pid}/exe"]
    if any(link(path).startswith(work + os.sep) for path in links):
        yield "files"


def scan(nonce, work):
    """How many there are to look at, the zombies of init, and what was found."""
    ours = lineage()
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    found, of_init = {}, 0
    for pid in pids:
        state, parent = stat_of(pid)
        if pid in ours or not state:
            continue
        if state == "Z":
            of_init += parent == 1
            if parent in ours - {1}:
                found[pid] = f"{pid} zombie of {parent}"
        elif why := ", ".join(marks(pid, nonce, work)):
            words = read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
            found[pid] = f"{pid} state {state}, parent {parent}, known by {why}: {words[:100]}"
    return len(pids), of_init, found


def main():
    nonce, work = os.environ["FASTPROC_DEMO"], os.environ["WORK"]
    end = time.monotonic() + PATIENCE
    while True:
        looked_at, of_init, found = scan(nonce, work)
        if not found or time.monotonic() > end:
            break
        time.sleep(0.1)
    for words in found.values():
        print(f"LEFT   {words}")
    print(f"{looked_at} processes looked at, {len(found)} left behind", end="")
    print(f"; {of_init} zombies wait for init to reap them" if of_init else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
