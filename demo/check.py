"""Compares a job log with how each command was to end. Standard library only.

Arguments: the list, the job log, the expectations, the exit code of the batch. A command without an
expectation is to exit with code 0.
"""

import re
import signal
import sys

MOST = 125  # failures that an exit code can count


def expectations(path):
    expected = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                name, reason, end = line.split()
                expected[name] = (reason, end)
    return expected


def ends(path):
    """Name, reason and end (code or name of the signal) of each line of a job log."""
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        fields = next(lines).rstrip("\n").split("\t")
        for line in lines:
            entry = dict(zip(fields, line.rstrip("\n").split("\t"), strict=True))
            end = entry["exit"] or "-"
            if entry["signal"]:
                end = signal_name(int(entry["signal"]))
            yield entry["name"], entry["reason"], end, entry["command"]


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def main(list_path, log_path, expected_path, exit_code):
    with open(list_path, encoding="utf-8") as lines:
        listed = sum(1 for line in lines if line.strip())
    expected = expectations(expected_path)
    wrong, as_told, failed, seen = 0, 0, 0, 0
    for name, reason, end, command in ends(log_path):
        seen += 1
        failed += (reason, end) != ("exited", "0")
        wanted = expected.pop(name, None)
        as_told += wanted is not None
        if (reason, end) != (wanted or ("exited", "0")):
            wrong += 1
            wanted_words = " ".join(wanted or ("exited", "0"))
            print(f"WRONG  {name}: was to end as {wanted_words}, but: {reason} {end}\n       {command}")
    with open(list_path, encoding="utf-8") as lines:
        names = set(re.findall(r"^@name=([^ ,]+)", lines.read(), re.MULTILINE))
    for name in sorted(names.intersection(expected)):
        wrong += 1
        print(f"WRONG  {name}: is not in the job log")
    if seen != listed:
        wrong += 1
        print(f"WRONG  {listed} commands were listed, {seen} are in the job log")
    if int(exit_code) != min(failed, MOST):
        wrong += 1
        print(f"WRONG  {failed} have failed, but the exit code of the batch was {exit_code}")
    print(
        f"{seen} ended: {seen - as_told} useful, {as_told} that misbehave; {wrong} otherwise than they had to"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
