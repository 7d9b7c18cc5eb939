"""The directory of a queue, kept open: its parts by descriptor, new files in it, what has to be on the disk.

Everything is done relative to descriptors that were opened once: nobody can lead it elsewhere by a symlink.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ManagerClosed
from .disk import Disk
from .store import Durability
from .task import TaskState

STATES = tuple(TaskState)
_BESIDE = ("attempts", "results", "logs")
_HIDDEN = (".processors", ".requests", ".new")
MOST_OPEN = 100
"""So many files are open at once while many are made."""


_CLOSED = "the Processor is closed, and nothing can be asked of it any more"


class _Closed(dict[str, int]):
    """The descriptors of a closed directory."""

    def __missing__(self, _name: str) -> int:
        raise ManagerClosed(_CLOSED)


class Place:
    """See the head of this file.

    Raises:
        PermissionError: others may write to the directory, see `open_to_others`.
        OSError: it cannot be made or opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], durability: Durability, disk: Disk, *, open_to_others: bool
    ) -> None:
        self.path = Path(os.path.abspath(os.fspath(path)))
        self.durability = durability
        self.disk = disk
        self.fds: dict[str, int] = {}
        self._name = secrets.token_hex(6)
        self._spares = 0
        self._lock = threading.Lock()
        self._make_root()
        self._root = self.disk.open_dir(str(self.path))
        try:
            _check_mode(self.path, self.disk.fstat(self.root), open_to_others)
            made = [self._open_or_make(name) for name in (*STATES, *_BESIDE, *_HIDDEN)]
            if any(made) and durability != "none":
                self.disk.sync(self.root)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the descriptors."""
        for fd in (*self.fds.values(), *((self._root,) if self._root >= 0 else ())):
            with contextlib.suppress(OSError):
                self.disk.close(fd)
        self.fds = _Closed()
        self._root = -1

    @property
    def root(self) -> int:
        """The directory itself.

        Raises:
            ManagerClosed: the Processor has been closed; what is in `fds` answers the same.
        """
        if self._root < 0:
            raise ManagerClosed(_CLOSED)
        return self._root

    def _make_root(self) -> None:
        """Make the directory, and those it lies in, so that a power loss leaves them."""
        missing = []
        path = self.path
        while not path.exists():
            missing.append(path)
            path = path.parent
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self.disk.mkdir(str(path))
            if self.durability != "none":
                fd = self.disk.open_dir(str(path.parent))
                try:
                    self.disk.sync(fd)
                finally:
                    self.disk.close(fd)

    def _open_or_make(self, name: str) -> bool:
        """Open one of the directories; whether it had to be made."""
        made = False
        with contextlib.suppress(OSError):
            self.disk.mkdir(name, self.root)
            made = True
        self.fds[name] = self.disk.open_dir(name, self.root)
        return made

    def is_gone(self, name: str) -> bool:
        """Whether somebody has removed a directory that we have open: then it has no name left."""
        return self.disk.fstat(self.fds[name]).st_nlink == 0

    def again(self, name: str) -> int:
        """Somebody has removed a directory that we have open: make it anew."""
        with self._lock:
            before = self.fds[name]
            if self._is_there(name, before):
                return before  # another thread has made it
            self._open_or_make(name)
            self.disk.close(before)
            if self.durability != "none":
                self.disk.sync(self.root)
            return self.fds[name]

    def _is_there(self, name: str, fd: int) -> bool:
        try:
            named = self.disk.stat(name, self.root)
        except OSError:
            return False
        ours = self.disk.fstat(fd)
        return (named.st_ino, named.st_dev) == (ours.st_ino, ours.st_dev)

    def new_file(self, place: str, content: bytes, *, named: bool = False) -> tuple[int, str | None]:
        """A file with content and without a name, or with a spare one in .new, to be had by `named` in any
        case.
        """
        self._spares += 1
        spare = f"{os.getpid()}-{self._name}-{self._spares}"
        try:
            fd, own = self._create(place, spare, named)
        except OSError:
            if not self.is_gone(place):
                raise
            self.again(place)
            fd, own = self._create(place, spare, named)
        try:
            self.disk.write(fd, content)
        except BaseException:
            self.disk.close(fd)
            if own is not None:
                with contextlib.suppress(OSError):
                    self.disk.unlink(own, self.fds[".new"])
            raise
        return fd, own

    def _create(self, place: str, spare: str, named: bool) -> tuple[int, str | None]:
        if named:
            return self.disk.create(spare, self.fds[".new"]), spare
        return self.disk.create_nameless(self.fds[place], self.fds[".new"], spare)

    def content(self, place: str, name: str, most: int) -> bytes | None:
        try:
            fd = self.disk.open_file(name, self.fds[place])
        except OSError:
            return None
        try:
            if not stat.S_ISREG(self.disk.fstat(fd).st_mode):
                return None
            return self.disk.read(fd, most)
        except OSError:
            return None
        finally:
            self.disk.close(fd)

    def groups(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        step = 1 if self.durability == "full" else MOST_OPEN
        for at in range(0, len(items), step):
            yield items[at : at + step]

    def sync_files(self, fds: Sequence[int], *places: str) -> None:
        """Have files on the disk, and what directories hold, in no order."""
        if self.durability == "none":
            return
        if len(fds) > 1:
            for fd in fds:
                self.disk.begin_write_back(fd)
        self.disk.sync_all([*fds, *(self.fds[name] for name in dict.fromkeys(places))])

    def sync_dirs(self, *names: str) -> None:
        if self.durability != "none":
            self.disk.sync_all([self.fds[name] for name in dict.fromkeys(names)])


def _check_mode(path: Path, found: os.stat_result, open_to_others: bool) -> None:
    """Whoever may write here may have us run anything: nobody but us, unless that is meant."""
    if open_to_others:
        return
    if found.st_uid not in (os.geteuid(), 0):
        whose = f"belongs to user {found.st_uid}"
    elif found.st_mode & stat.S_IWOTH:
        whose = f"can be written by everybody (mode {stat.S_IMODE(found.st_mode):04o})"
    elif found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid():
        whose = f"can be written by group {found.st_gid} (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return
    raise PermissionError(
        errno.EPERM,
        f"the queue {whose}, who could have anything run; chmod it, or pass open_to_others=True",
        str(path),
    )
