"""A coding agent as the queue sees one: says and does what its prompt tells it, line by line.

    python fake_agent.py JOURNAL

Each line of the prompt on its standard input that begins with "do: " is one deed. First it writes
`start <task> <attempt> <pid>` to the journal, and takes a lock on <journal>.<task> that it holds while it
lives: two live runs of one task are an `overlap`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

CHATTY_CHILD = "import time, os, sys\nwhile True:\n print('child', os.getpid(), flush=True); time.sleep(0.05)"


def say(**fields: object) -> None:
    """A line of structured output."""
    print(json.dumps(fields), flush=True)


def note(journal: str, *words: object) -> None:
    """A line of the journal, at once and whole."""
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def do(deed: str, words: list[str]) -> None:  # noqa: C901 - a list of cases
    """One deed."""
    match deed:
        case "print":
            print(" ".join(words), flush=True)
        case "stream":
            for number in range(int(words[0])):
                say(type="assistant", text=f"step {number}")
                time.sleep(float(words[1]))
        case "spawn":  # a grandchild in a session of its own, and one that writes to our output
            subprocess.Popen(["sleep", "120"], start_new_session=True)
            print("child of ours", subprocess.Popen([sys.executable, "-c", CHATTY_CHILD]).pid, flush=True)
        case "env":
            print({name: os.environ.get(name) for name in words}, flush=True)
        case "ignore-term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "sleep":
            time.sleep(float(words[0]))
        case "wait":  # until there is such a file
            while not os.path.exists(words[0]):
                time.sleep(0.02)
        case "hang":
            print("hanging", flush=True)
            time.sleep(120)
        case "structured-limit":
            say(type="error", error={"type": "rate_limit_error"}, retry_after=float(words[0]))
            sys.exit(1)
        case "plain-limit":
            print("API error: 429 Too Many Requests, try again in 20 minutes")
            sys.exit(1)
        case "structured-turns":
            say(type="result", subtype="error_max_turns", is_error=True)
            sys.exit(0)
        case "plain-turns":
            print("Error: Reached max turns (5)")
            sys.exit(1)
        case "once":  # fails, but only the first time
            if os.environ["FASTPROC_ATTEMPT"] == "1":
                sys.exit(9)
        case "exit":
            sys.exit(int(words[0]))
        case "result":
            say(type="result", subtype="success", is_error=False, result=" ".join(words))
        case _:
            sys.exit(f"no such deed: {deed}")


def main() -> None:
    """See the head of this file."""
    journal = sys.argv[1]
    task, attempt = os.environ["FASTPROC_TASK_ID"], os.environ["FASTPROC_ATTEMPT"]
    lock = os.open(f"{journal}.{task}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(journal, "overlap", task, attempt, os.getpid())
    note(journal, "start", task, attempt, os.getpid())
    for line in sys.stdin.read().splitlines():
        if line.startswith("do: "):
            deed, *words = line[4:].split()
            do(deed, words)
    note(journal, "end", task, attempt, os.getpid())


main()
