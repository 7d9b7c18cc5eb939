"""A coding agent as far as a queue can tell: prompt on standard input, JSON lines on standard output.

It takes the command line of Claude Code, and does what the line `Behave: WORD` of its prompt says. Besides it
keeps a diary in $WORK/diary, and holds a lock on its task's name as long as it lives: if it finds that lock
taken, two of it run for one task, and it writes that down. Standard library only.
"""

import argparse
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

WORK = pathlib.Path(os.environ["WORK"])
NAP = os.environ[
    "NAP"
]  # seconds that it sleeps when it hangs; also the mark by which its processes are known
TASK, ATTEMPT = os.environ["FASTPROC_TASK_ID"], int(os.environ["FASTPROC_ATTEMPT"])


def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def diary(word):
    fd = os.open(WORK / "diary", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {TASK} {ATTEMPT} {os.getpid()}\n".encode())
    os.close(fd)


def finish(words):
    say("result", subtype="success", is_error=False, result=words)


def streams():
    """Real work, told step by step."""
    lines = 0
    for page in sorted(pathlib.Path(os.environ["REPO"], "docs").rglob("*.md")):
        lines += len(page.read_text(encoding="utf-8").splitlines())
        say("assistant", text=f"{page.name}: {lines} lines so far")
        time.sleep(0.15)
    finish(f"The documentation has {lines} lines.")


def has_grandchildren():
    """One that ignores SIGTERM, one that writes to our output for ever, one in a session of its own."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({})"
    chatty = "import time\nwhile True: print('grandchild: still here', flush=True); time.sleep(0.2) # {}"
    subprocess.Popen([sys.executable, "-c", deaf.format(NAP)])
    subprocess.Popen([sys.executable, "-c", chatty.format(NAP)])
    # Only a cgroup holds one that leaves the session while its parent dies.
    subprocess.Popen(["sleep", NAP], start_new_session=os.environ.get("CGROUP") == "yes")
    time.sleep(0.5)
    finish("Done, and forgot three grandchildren.")


def is_rate_limited():
    """By its service, the first time."""
    if ATTEMPT == 1:
        say("error", error={"type": "rate_limit_error", "message": "too many requests"}, retry_after=900)
        sys.exit(1)
    finish("The service has let me in at last.")


def talks_of_limits():
    """Words are no verdict: it has done what it was told."""
    print("Implemented the rate limit: too many requests get a 429, as the task says. Error: none.")
    time.sleep(0.3)


def ignores_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        say("assistant", text="I am not done yet.")
        time.sleep(0.25)


def hangs():
    say("assistant", text="Let me think.")
    time.sleep(float(NAP))


def is_deaf_and_hangs():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hangs()


def uses_all_turns():
    say("result", subtype="error_max_turns", is_error=True, num_turns=int(os.environ["MAX_TURNS"]))
    sys.exit(1)


def main():
    known = argparse.ArgumentParser()
    known.add_argument("-p", action="store_true")
    known.add_argument("--output-format", choices=["stream-json"])
    known.add_argument("--verbose", action="store_true")
    known.add_argument("--max-turns", type=int)
    known.parse_args()
    prompt = sys.stdin.read()
    lock = os.open(WORK / f"lock.{TASK}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        diary("TWICE")
    diary("start")
    say("system", subtype="init", task=TASK, attempt=ATTEMPT)
    behaviour = re.search(r"^Behave: (\w+)$", prompt, re.MULTILINE)
    if behaviour is None:
        sys.exit("the prompt says nothing that I could do")
    globals()[behaviour[1]]()
    diary("end")


if __name__ == "__main__":
    main()
