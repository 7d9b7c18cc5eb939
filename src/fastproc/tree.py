"""The processes of a task, drawn as a tree.

A snapshot is taken process by process while they come and go: what vanishes on the way is left
out. Orphans are found by their session: when a process dies, its children become init's or a
subreaper's, but stay in the session that the task leads.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import psutil

GONE = "gone"
"""The state of a process that had ended when it was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTree:
    """A process and its descendants. str() draws it.

    Attributes:
        pid, name: as ps(1) shows them.
        state: running, sleeping, disk-sleep, stopped, zombie, ... or gone.
        cpu_seconds: CPU time it has used itself, its living children not counted.
        rss: bytes of memory resident.
        children: by process id.
        waited_cpu_seconds: CPU time of children that it has waited for.
        created: when it was started, in seconds since 1970; with the pid it is an identity.
    """

    pid: int
    name: str = ""
    state: str = GONE
    cpu_seconds: float = 0.0
    rss: int = 0
    children: tuple[ProcessTree, ...] = field(default=(), repr=False)
    waited_cpu_seconds: float = 0.0
    created: float = 0.0

    def walk(self) -> Iterator[ProcessTree]:
        """It and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    def __str__(self) -> str:
        lines = []
        # Not by recursion: a fork chain may be deeper than Python's stack.
        waiting = [(self, "", "")]
        while waiting:
            node, before_it, before_children = waiting.pop()
            lines.append(before_it + _line(node))
            last = len(node.children) - 1
            for index in range(last, -1, -1):
                branch, below = ("└─", "  ") if index == last else ("├─", "│ ")
                waiting.append((node.children[index], before_children + branch, before_children + below))
        return "\n".join(lines)


def build_tree(root: int) -> ProcessTree:
    """The tree below process `root`; if that has gone, what is left of its session hangs below its place."""
    family = Family.of([root])
    return family.tree(root) or ProcessTree(pid=root, children=family.trees_below(root))


def build_forest(roots: Iterable[int]) -> ProcessTree:
    """This process, and below it the trees of `roots` and nothing else it may have started."""
    family = Family.of(roots)
    me = os.getpid()
    trees: list[ProcessTree] = []
    for root in sorted(family.roots):
        tree = family.tree(root)
        trees.extend(family.trees_below(root) if tree is None else (tree,))
    try:
        mine = _look(psutil.Process(me))
    except psutil.Error:
        mine = None
    # Where there is no /proc, all that is known of us is our number.
    return dataclasses.replace(mine or ProcessTree(pid=me), children=tuple(trees))


@dataclass(frozen=True, slots=True)
class Family:
    """The living (and the zombies) among some processes and their descendants, as one look found them."""

    roots: frozenset[int]
    members: Mapping[int, ProcessTree]
    children: Mapping[int, list[int]]

    @classmethod
    def of(cls, roots: Iterable[int]) -> Family:
        """Look once at all processes of the system, and closer at those that belong to `roots`."""
        heads = frozenset(roots)
        processes: dict[int, psutil.Process] = {}
        parents: dict[int, int] = {}
        children: dict[int, list[int]] = {}
        for process in _all_processes():
            try:
                parent = process.ppid()
            except psutil.Error:
                continue
            processes[process.pid] = process
            parents[process.pid] = parent
            children.setdefault(parent, []).append(process.pid)

        reached = _reach(heads, children)
        sessions = {pid: session for pid in processes.keys() - reached if (session := _session(pid)) in heads}
        for pid, session in sessions.items():
            if parents[pid] not in sessions:
                children.setdefault(session, []).append(pid)
        reached = _reach(heads, children)
        members = {}
        for pid in reached & processes.keys():
            facts = _look(processes[pid])
            if facts is not None:
                members[pid] = facts
        return cls(heads, members, {pid: sorted(children.get(pid, ())) for pid in reached})

    def tree(self, root: int) -> ProcessTree | None:
        """The tree below a member; None if it has gone."""
        if root not in self.members:
            return None
        # Parents first. A process id used again during the look could close a circle: hence each only once.
        parents = {root: 0}
        order = [root]
        for pid in order:
            for child in self.children.get(pid, ()):
                if child not in parents:
                    parents[child] = pid
                    order.append(child)
        below: dict[int, list[ProcessTree]] = {}
        for pid in reversed(order):
            grown = sorted(below.pop(pid, ()), key=lambda node: node.pid)
            if pid in self.members:
                grown = [dataclasses.replace(self.members[pid], children=tuple(grown))]
            below.setdefault(parents[pid], []).extend(grown)
        return below[0][0]

    def trees_below(self, root: int) -> tuple[ProcessTree, ...]:
        """The trees of what a vanished root has left."""
        trees = (self.tree(child) for child in self.children.get(root, ()))
        return tuple(tree for tree in trees if tree is not None)


def _all_processes() -> Iterator[psutil.Process]:
    """All that can be seen; nobody where there is no /proc, which psutil has no word for."""
    try:
        yield from psutil.process_iter()
    except (IndexError, OSError):
        return


def _reach(heads: Iterable[int], children: Mapping[int, list[int]]) -> set[int]:
    reached = set(heads)
    waiting = list(reached)
    while waiting:
        fresh = [child for child in children.get(waiting.pop(), ()) if child not in reached]
        reached.update(fresh)
        waiting.extend(fresh)
    return reached


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _look(process: psutil.Process) -> ProcessTree | None:
    """What a process is and has used; None if it has gone."""
    try:
        with process.oneshot():
            times = process.cpu_times()
            state = process.status()
            return ProcessTree(
                pid=process.pid,
                name=process.name(),
                state=state,
                cpu_seconds=times.user + times.system,
                rss=0 if state == psutil.STATUS_ZOMBIE else process.memory_info().rss,
                waited_cpu_seconds=times.children_user + times.children_system,
                created=process.create_time(),
            )
    except psutil.ZombieProcess:
        return ProcessTree(pid=process.pid, state=psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return None
    except OSError:
        # Of /proc only processes can be seen, see proc(5), subset=pid: no /proc/stat to date them by.
        return ProcessTree(pid=process.pid, name=process.name(), state=process.status())


def _line(node: ProcessTree) -> str:
    if node.state == GONE:
        return f"({node.pid}) {GONE}"
    return f"{node.name}({node.pid}) {node.state}, {node.cpu_seconds:.2f} s CPU, {_size(node.rss)}"


def _size(size: int) -> str:
    if size < 1024 * 1024:
        return f"{size / 1024:.0f} KiB"
    if size < 1024 * 1024 * 1024:
        return f"{size / 1024 / 1024:.1f} MiB"
    return f"{size / 1024 / 1024 / 1024:.1f} GiB"
