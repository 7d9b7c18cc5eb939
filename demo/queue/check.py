"""Reads a queue directory and compares what is there with what had to come of each task. Standard library
only: it knows the layout of the directory, and nothing of fastproc.

Arguments: the queue, the expectations, the directory of the agents' diary, when the Processor was started
again, and its exit code.
"""

import json
import pathlib
import sys

STATES = ("pending", "in-progress", "completed", "failed", "quarantine")


def expectations(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, state, outcome, attempts, words = line.split(None, 4)
            yield name, state, outcome, attempts, words


def results(queue, name):
    """What came of each attempt, in order."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in queue.glob(f"results/{name}.*.json")]
    return sorted(found, key=lambda result: result["attempt"])


def began(queue, name):
    """How many attempts were begun, and when."""
    path = queue / "attempts" / f"{name}.jsonl"
    notes = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )
    return [note["at"] for note in notes if note["event"] == "claimed"]


def words_of(result):
    execution = result.get("execution") or {}
    return " ".join(
        str(part) for part in (result["reason"], execution.get("message"), execution.get("error"))
    )


def faults_of_task(queue, name, state, outcome, attempts, words):
    # Beside a file in quarantine lies why it is there.
    places = {path.parent.name for path in queue.glob(f"*/{name}.*") if path.parent.name in STATES}
    if places != {state}:
        yield f"is in {' and '.join(sorted(places)) or 'no directory'}, not in {state}"
        return
    if state == "quarantine":
        said = "".join(path.read_text(encoding="utf-8") for path in queue.glob(f"quarantine/{name}.*.why"))
        if words not in ("-", "") and words not in said:
            yield f"is in quarantine, but not for {words!r}: {said}"
        return
    count = len(began(queue, name))
    if not (count >= int(attempts[:-1]) if attempts.endswith("+") else count == int(attempts)):
        yield f"had {count} attempts, not {attempts}"
    made = results(queue, name)
    if len(made) != count or [result["attempt"] for result in made] != list(range(1, count + 1)):
        yield f"has {len(made)} results for {count} attempts"
    if not made:
        return
    last = made[-1]
    if outcome not in ("-", last["outcome"]):
        yield f"its last attempt was {last['outcome']}, not {outcome}"
    if words != "-" and words not in words_of(last):
        yield f"nothing is said of {words!r}, but: {words_of(last)}"


def faults_of_all(queue, work, expected, restarted, code):
    for state in STATES:
        for path in (queue / state).iterdir():
            if path.name.partition(".")[0] not in expected:
                yield f"{path.name} in {state}: nobody has put it there"
    diary = [line.split() for line in (work / "diary").read_text(encoding="utf-8").splitlines()]
    for word, task, attempt, pid in diary:
        if word == "TWICE":
            yield f"{task}: two of it ran at once, process {pid} of attempt {attempt} is the second"
    starts = [(task, attempt) for word, task, attempt, _pid in diary if word == "start"]
    if len(starts) != len(set(starts)):
        yield "an attempt was started twice"
    streams, after = results(queue, "streams"), results(queue, "after-streams")
    if streams and after and not after[-1]["started_at"] >= streams[-1]["finished_at"]:
        yield "after-streams did not wait for streams"
    limited = results(queue, "rate-limited")
    others = [at for name in expected for at in began(queue, name)]
    if len(limited) == 2:
        pause = (limited[0]["finished_at"], began(queue, "rate-limited")[1])
        meanwhile = [at for at in others if pause[0] + 0.2 < at < pause[1] - 0.2]
        if pause[1] - pause[0] < 1.9 or meanwhile:
            yield f"the rate limit held for {pause[1] - pause[0]:.1f} s, and {len(meanwhile)} began meanwhile"
    ticks = (queue / "logs" / "survives.1.log").read_text(encoding="utf-8").splitlines()
    if ticks != [f"tick {number}" for number in range(1, 41)]:
        yield f"survives has noticed that its Processor was killed: {len(ticks)} ticks of 40"
    failed = [name for name in expected if (queue / "failed" / f"{name}.json").exists()]
    late = sum(
        results(queue, name)[-1]["finished_at"] >= restarted for name in failed if results(queue, name)
    )
    if code != late:
        yield f"{late} tasks have failed since the restart, but its exit code was {code}"


def main(queue, expected, work, restarted, code):
    queue, work = pathlib.Path(queue), pathlib.Path(work)
    wrong = 0
    listed = list(expectations(pathlib.Path(expected)))
    for name, *rest in listed:
        for fault in faults_of_task(queue, name, *rest):
            wrong += 1
            print(f"WRONG  {name}: {fault}")
    for fault in faults_of_all(queue, work, [each[0] for each in listed], float(restarted), int(code)):
        wrong += 1
        print(f"WRONG  {fault}")
    counts = {state: sum(state == each[1] for each in listed) for state in STATES}
    print(
        f"{len(listed)} tasks: {counts['completed']} completed, {counts['failed']} failed, "
        f"{counts['quarantine']} in quarantine; {wrong} otherwise than they had to"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
