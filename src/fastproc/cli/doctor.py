"""`fastproc doctor`: what this kernel and container allow, and what to do about what they do not."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import fastproc

# What is lost without it, and how to get it.
ADVICE = {
    "clone3": "starts use clone(2): a little slower; needs Linux 5.3 and a permitting seccomp profile",
    "clone": "starts use fork(2): slow for a large program; the emulator or sandbox shares no memory",
    "pidfd": "processes are known by number only, which can be reused after their end; needs Linux 5.3",
    "pidfd_signal": "signals go by number while the process is unreaped; needs Linux 5.1",
    "pidfd_wait": "reaping goes by number; needs Linux 5.4",
    "pidfd_group": "groups are signalled by number while their leader is unreaped; needs Linux 6.9",
    "pidfd_info": "if other code of the program reaps our children, their status is lost; needs Linux 6.15",
    "close_range": "what a child must not inherit is closed one by one; needs Linux 5.9",
    "cgroup": "no limits of memory, pids and cpus, and a job that leaves its session may survive; needs a "
    "writable cgroup v2 directory: `systemd-run --user --scope -p Delegate=yes`, or mount cgroup2 writable",
    "into_cgroup": "children enter their cgroup by a write of their own; needs Linux 5.7",
    "cgroup_kill": "a cgroup is killed process by process, in rounds; needs Linux 5.14",
    "procfs": "descendants outside the cgroup cannot be found; mount /proc without hidepid",
}

# What limits of memory, pids and cpus need, see cgroups(7).
CONTROLLERS = ("memory", "pids", "cpu")

FEW_DESCRIPTORS = 4096


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON on standard output.")
def doctor(as_json: bool) -> int:
    """Say what this kernel and container allow, and what to do about what is missing."""
    capabilities = dict(fastproc.capabilities())
    facts = _facts()
    advice = _advice(capabilities, facts)
    if as_json:
        print(json.dumps({**facts, "capabilities": capabilities, "advice": advice}, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<22} {_shown(value)}")
    print()
    for name, value in capabilities.items():
        print(f"{name:<22} {_shown(value)}")
        if name in advice:
            print(f"{'':<22}   {advice.pop(name)}")
    for words in advice.values():
        print(f"\n{words}")
    return 0


def _facts() -> dict[str, Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return {
        "fastproc": fastproc.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)),
        "open_files": _unlimited(soft),
        "open_files_hard": _unlimited(hard),
        "processes": _unlimited(processes),
        "pid_max": _number_in("/proc/sys/kernel/pid_max"),
        "threads_max": _number_in("/proc/sys/kernel/threads-max"),
        "disabled": os.environ.get("FASTPROC_DISABLE", ""),
    }


def _unlimited(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _number_in(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _advice(capabilities: Mapping[str, bool | str], facts: Mapping[str, Any]) -> dict[str, str]:
    advice = {name: words for name, words in ADVICE.items() if capabilities.get(name) is False}
    if sys.platform == "linux" and "cgroup" in advice:
        # Without a cgroup there is nothing to enter or kill.
        advice.pop("into_cgroup", None)
        advice.pop("cgroup_kill", None)
    if capabilities["cgroup_dir"]:
        words = _about_limits(Path(str(capabilities["cgroup_dir"])))
        if words is not None:
            advice["cgroup_dir"] = words
    hard = facts["open_files_hard"]
    if hard is not None and hard < FEW_DESCRIPTORS:
        advice["open_files_hard"] = (
            f"At most {hard} descriptors: each captured job needs up to four. Raise the hard limit, "
            "for example by LimitNOFILE= of systemd or --ulimit nofile= of the container."
        )
    return advice


def _about_limits(directory: Path) -> str | None:
    """Why limits that a cgroup keeps are refused there; None if they are not."""
    missing = [name for name in CONTROLLERS if name not in _words_in(directory / "cgroup.controllers")]
    if missing:
        return (
            f"no controller for {', '.join(missing)} here, so such limits are refused; cgroup v1 may have "
            "it, or nobody has delegated it: see cgroup.subtree_control of the directories above"
        )
    # The root has no cgroup.type, and may have processes and controllers at once.
    handed_down = set(CONTROLLERS) <= set(_words_in(directory / "cgroup.subtree_control"))
    if not handed_down and (directory / "cgroup.type").exists() and _words_in(directory / "cgroup.procs"):
        return (
            "limits of memory, pids and cpus are refused as long as processes live in this very directory; "
            "move them into one below, or name another by FASTPROC_CGROUP"
        )
    return None


def _words_in(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unlimited"
    return str(value) or "-"
