"""What do options of a start cost: limits, a directory, a group, a priority?

Pinned, one at a time. fastproc sets them in the child between birth and exec; subprocess has some, and for
the others preexec_fn, which makes it fork(2): in a parent of 1 GiB that copies the tables of a quarter of a
million pages. Limits therefore are measured in a small parent and in a large one.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Mapping
from typing import Any

import contenders
from contenders import OneByOne
from harness import Answer, Plan, Rounds, main, measure, pinned, resident_memory, workshop

import fastproc

MEMORY = 1 << 30
GOAL_LARGE = 300.0
LIMITS = fastproc.Limits(cpu=60, file_size=1 << 30, core=0, open_files=256)
BY_RESOURCE = (
    (resource.RLIMIT_CPU, 60),
    (resource.RLIMIT_FSIZE, 1 << 30),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 256),
)
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "no option": {},
    "four limits": {"limits": LIMITS},
    "cwd": {"cwd": "/"},
    "env of three": {"env": {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C"}},
    "env of a hundred": {"env": {f"NAME_{i}": "value" for i in range(100)}},
    "nice": {"nice": 5},
    "umask": {"umask": 0o077},
    "cpu_affinity": {"cpu_affinity": sorted(os.sched_getaffinity(0))[-1:]},
    "no_new_privs": {"no_new_privs": True},
    "timeout": {"timeout": 60.0},
    'start_new="group"': {"start_new": "group"},
    'containment="session"': {"containment": "session"},
    "stdout and stderr to /dev/null": {"stdout": fastproc.DEVNULL, "stderr": fastproc.DEVNULL},
}


def limit_itself() -> None:
    """What a preexec_fn does."""
    for which, value in BY_RESOURCE:
        resource.setrlimit(which, (value, value))


def ours(manager: fastproc.ProcessManager, name: str, options: Mapping[str, Any]) -> OneByOne:
    """Fastproc with these options."""
    command = fastproc.Command([workshop.child], **options)
    return OneByOne(name, lambda: manager.start_process(object(), command).wait().code)


def popen(name: str, *, slow: int = 1, **options: Any) -> OneByOne:
    """Subprocess with these options."""
    args = [workshop.child]
    return OneByOne(name, lambda: subprocess.Popen(args, **options).wait(), contenders.PLAIN, slow=slow)


def question(plan: Plan) -> Answer:
    """All options in a small parent, limits in a large one too."""
    rounds, large = Rounds(), Rounds()
    with pinned(), fastproc.ProcessManager() as manager:
        each = [ours(manager, name, options) for name, options in OPTIONS.items()]
        plain = popen("Popen, no option")
        words = "Popen, four limits by preexec_fn"
        by_preexec = popen(words, slow=plan.pick(4, 2), preexec_fn=limit_itself)
        others = [
            plain,
            by_preexec,
            popen("Popen, cwd", cwd="/"),
            popen("Popen, umask", umask=0o077),
            popen("Popen, start_new_session", start_new_session=True),
        ]
        measure([*each, *others], plan.pick(60, 16), plan.rounds, rounds)
        limited = each[1]
        # fork(2) leaves every page to be copied when it is next written to: who comes after it must not be
        # few, or it is measured by what the other has left behind.
        with resident_memory(MEMORY):
            few = popen(words, slow=20, preexec_fn=limit_itself)
            measure([limited, few], plan.pick(200, 60), plan.pick(5, 2), large)
    rows = [rounds.ratio(one.name, each[0].name, what=f"ProcessManager, {one.name}") for one in each]
    rows += [rounds.ratio(other.name, plain.name) for other in others]
    rows.append(rounds.faster(limited.name, by_preexec.name, what="four limits, faster than by preexec_fn"))
    rows.append(
        large.faster(
            limited.name,
            by_preexec.name,
            what="four limits with 1 GiB resident, faster than by preexec_fn",
            goal=GOAL_LARGE,
        )
    )
    kept = {**rounds.seconds, **{f"{name}, 1 GiB": times for name, times in large.seconds.items()}}
    return Answer(title="Options of a start", rows=rows, rounds=kept)


if __name__ == "__main__":
    main(__doc__, question)
