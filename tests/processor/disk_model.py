"""What a power loss may leave of a sequence of system calls: every state that a file system may show.

A Recorder stands between the store and the disk and writes down what changes it. The model knows, of what
was promised to it, only this, which ext4, xfs and btrfs keep and POSIX nearly does:

- what a file held at an fsync(2) of it is there; what was written since may be missing, torn, or zeros;
- a name that was given or taken is so after an fsync(2) of its directory; before, in any order or not at all;
- a rename may be seen half done, with both names, but never with neither.

See ALICE (Pillai et al., OSDI 2014) and CrashMonkey (Mohan et al., OSDI 2018).
"""

from __future__ import annotations

import itertools
import math
import os
import random
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastproc.processor.disk import Disk


@dataclass(frozen=True, slots=True)
class Half:
    """One name in one directory, given to a file or directory, or taken (None)."""

    place: str
    name: str
    what: int | None
    moment: int
    after: int | None = None
    """A name is taken only if the one that was given at that moment is there: the halves of a rename."""


@dataclass(slots=True)
class Tape:
    """What was done to a directory tree, in order."""

    moment: int = 0
    halves: list[Half] = field(default_factory=list)
    writes: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Moment, file, what was appended."""
    syncs: list[tuple[int, object]] = field(default_factory=list)
    """Moment, and a file's number or a directory's path."""
    acks: list[tuple[int, str]] = field(default_factory=list)

    def tick(self) -> int:
        self.moment += 1
        return self.moment

    def acknowledge(self, words: str) -> None:
        self.acks.append((self.tick(), words))


class Recorder(Disk):
    """A Disk that writes down what it does below `root`. For one thread at a time."""

    def __init__(self, root: Path, tape: Tape) -> None:
        super().__init__()
        self.root = str(root)
        self.tape = tape
        self._numbers: dict[int, int] = {}
        self._next = itertools.count(1)

    def _place(self, dir_fd: int | None) -> str:
        return (
            os.path.relpath(os.readlink(f"/proc/self/fd/{dir_fd}"), self.root) if dir_fd is not None else "."
        )

    def _born(self, fd: int) -> int:
        number = self._numbers[os.fstat(fd).st_ino] = next(self._next)
        return number

    def _give(self, place: str, name: str, what: int) -> int:
        moment = self.tape.tick()
        self.tape.halves.append(Half(place, name, what, moment))
        return moment

    def mkdir(self, name: str, dir_fd: int | None = None) -> None:
        super().mkdir(name, dir_fd)
        place = self._place(dir_fd)
        self._give(place, os.path.basename(name), 0)

    def open_file(self, name: str, dir_fd: int, flags: int = os.O_RDONLY) -> int:
        was_there = os.path.lexists(f"/proc/self/fd/{dir_fd}/{name}")
        fd = super().open_file(name, dir_fd, flags)
        if not was_there:
            self._give(self._place(dir_fd), name, self._born(fd))
        return fd

    def create(self, name: str, dir_fd: int) -> int:
        fd = super().create(name, dir_fd)
        self._give(self._place(dir_fd), name, self._born(fd))
        return fd

    def create_nameless(self, dir_fd: int, spare_dir_fd: int, spare: str) -> tuple[int, str | None]:
        fd, named = super().create_nameless(dir_fd, spare_dir_fd, spare)
        number = self._born(fd)
        if named is not None:
            self._give(self._place(spare_dir_fd), named, number)
        return fd, named

    def publish(self, fd: int, spare: str | None, spare_dir_fd: int, name: str, dir_fd: int) -> None:
        super().publish(fd, spare, spare_dir_fd, name, dir_fd)
        if spare is None:
            self._give(self._place(dir_fd), name, self._numbers[os.fstat(fd).st_ino])

    def rename_new(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        number = self._number(name, dir_fd)
        super().rename_new(name, dir_fd, new_name, new_dir_fd)
        self._moved(number, name, dir_fd, new_name, new_dir_fd)

    def replace(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        number = self._number(name, dir_fd)
        super().replace(name, dir_fd, new_name, new_dir_fd)
        self._moved(number, name, dir_fd, new_name, new_dir_fd)

    def _number(self, name: str, dir_fd: int) -> int:
        try:
            return self._numbers[os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino]
        except FileNotFoundError:
            return -1  # the rename will say so

    def _moved(self, number: int, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        given = self._give(self._place(new_dir_fd), new_name, number)
        self.tape.halves.append(Half(self._place(dir_fd), name, None, self.tape.tick(), given))

    def unlink(self, name: str, dir_fd: int) -> None:
        super().unlink(name, dir_fd)
        self.tape.halves.append(Half(self._place(dir_fd), name, None, self.tape.tick()))

    def write(self, fd: int, content: bytes) -> None:
        super().write(fd, content)
        self.tape.writes.append((self.tape.tick(), self._numbers[os.fstat(fd).st_ino], bytes(content)))

    def sync_all(self, fds: Sequence[int]) -> None:
        for fd in fds:
            self.sync(fd)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        found = os.fstat(fd)
        what: object = self._place(fd) if stat.S_ISDIR(found.st_mode) else self._numbers[found.st_ino]
        self.tape.syncs.append((self.tape.tick(), what))


State = tuple[tuple[tuple[str, int], ...], tuple[tuple[int, bytes], ...]]
"""Which path is which file (0 for a directory), and what the files hold."""


def states_after(tape: Tape, moment: int, most: int, chance: random.Random) -> Iterator[State]:
    """What the disk may show if the power is lost just after that moment.

    If there are more than `most` ways for names or contents, so many at random.
    """
    synced: dict[object, int] = {what: at for at, what in tape.syncs if at <= moment}
    past = [half for half in tape.halves if half.moment <= moment]
    certain = {half.moment for half in past if synced.get(half.place, 0) > half.moment}
    # Where a name is taken for certain the other one is given: they are one transaction.
    certain |= {half.after for half in past if half.moment in certain and half.after is not None}
    uncertain = [half for half in past if half.moment not in certain]
    clean, dirty = _clean(tape, moment), _dirty(tape, moment, synced)
    for chosen in _subsets(uncertain, most, chance):
        names = _names([half for half in past if half.moment in certain or half in chosen])
        if names is None:
            continue
        there = set(names.values())
        reachable = [number for number in dirty if number in there]
        for contents in _contents([dirty[number] for number in reachable], most, chance):
            held = {number: content for number, content in clean.items() if number in there}
            held.update(zip(reachable, contents, strict=True))
            yield tuple(sorted(names.items())), tuple(sorted(held.items()))


def _subsets(halves: Sequence[Half], most: int, chance: random.Random) -> Iterator[set[Half]]:
    if 2 ** len(halves) <= most:
        for picks in itertools.product((False, True), repeat=len(halves)):
            yield {half for half, pick in zip(halves, picks, strict=True) if pick}
        return
    yield set()
    yield set(halves)
    for _ in range(most):
        yield {half for half in halves if chance.random() < 0.5}


def _contents(
    ways: Sequence[Sequence[bytes]], most: int, chance: random.Random
) -> Iterator[tuple[bytes, ...]]:
    """All combinations, or `most` of them at random."""
    if math.prod(map(len, ways)) <= most:
        yield from itertools.product(*ways)
        return
    for _ in range(most):
        yield tuple(chance.choice(each) for each in ways)


def _names(halves: Sequence[Half]) -> dict[str, int] | None:
    """The tree that these make; None if that cannot be: neither name of what was renamed."""
    done = {half.moment for half in halves}
    names: dict[str, int] = {}
    for half in halves:
        if half.after is not None and half.after not in done:
            return None
        path = os.path.normpath(f"{half.place}/{half.name}")
        if half.what is None:
            names.pop(path, None)
        else:
            names[path] = half.what
    # What lies in a directory that is not there is not there.
    return {
        path: what
        for path, what in names.items()
        if os.path.dirname(path) == "" or names.get(os.path.dirname(path)) == 0
    }


def _clean(tape: Tape, moment: int) -> dict[int, bytes]:
    held: dict[int, bytes] = {half.what: b"" for half in tape.halves if half.what}
    for at, number, content in tape.writes:
        if at <= moment:
            held[number] = held.get(number, b"") + content
    return held


def _dirty(tape: Tape, moment: int, synced: dict[object, int]) -> dict[int, list[bytes]]:
    """The files whose last writes may be missing, and all that they may hold."""
    found: dict[int, list[bytes]] = {}
    safe: dict[int, bytes] = {}
    new: dict[int, bytes] = {}
    for at, number, content in tape.writes:
        if at > moment:
            break
        into = safe if synced.get(number, 0) > at else new
        into[number] = into.get(number, b"") + content
    for number, content in new.items():
        kept = safe.get(number, b"")
        half = len(content) // 2
        found[number] = [kept, kept + content[:half], kept + bytes(len(content)), kept + content]
    return found


def materialise(state: State, place: Path) -> None:
    """Make that state on a real disk."""
    names, contents = dict(state[0]), dict(state[1])
    place.mkdir(parents=True)
    made: dict[int, Path] = {}
    for path, what in sorted(names.items()):
        target = place / path
        if what == 0:
            target.mkdir(mode=0o700)
        elif what in made:
            os.link(made[what], target)
        else:
            target.write_bytes(contents.get(what, b""))
            target.chmod(0o600)
            made[what] = target
