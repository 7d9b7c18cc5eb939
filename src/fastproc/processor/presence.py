"""Who works on the directory of a queue: the lock of the directory, a locked file in `.processors` for each.

The lock is the directory's own, a lock file could be removed while it is held, see flock(2). What the file of
a Processor says is for other programs; that it lives is said by the lock of the file, which the kernel gives
back whatever becomes of it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import time
from collections.abc import Iterator
from typing import Any

from ..errors import QueueBusy
from .adopt import Person
from .machine import Machine
from .place import Place

_PATIENCE = 5.0
_TIME_TO_SPEAK = 1.0
"""Seconds until a Processor that others see must have said something of itself."""


class Presence:
    """See the head of this file. Called by one thread at a time for what changes something."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.machine = Machine.here()
        self.instance = self._new_instance()
        self._lock_fd: int | None = None
        self._person_fd: int | None = None
        self.shared = False
        self._said: dict[str, object] = {}
        self._said_bytes = 0
        self.unwritten: OSError | None = None
        """Why nobody can see that we live: the disk could not be written when we came."""

    def _new_instance(self) -> str:
        return f"{self.machine.host}-{os.getpid()}-{secrets.token_hex(6)}"

    def lock(self, *, shared: bool) -> None:
        """Be a Processor of this directory; QueueBusy if that cannot be."""
        fd = self._place.disk.open_dir(str(self._place.path))
        until = time.monotonic() + _PATIENCE
        while not self._place.disk.lock(fd, shared=shared):
            if time.monotonic() > until or self._is_really_held():
                self._place.disk.close(fd)
                raise QueueBusy(str(self._place.path), self._who())
            time.sleep(0.005)
        self._lock_fd = fd
        self.shared = shared
        try:
            self._refuse_strangers()
            self.unwritten = None
            try:
                self._register(shared=shared)
            except OSError as error:
                # One that is alone can do without: whoever comes next knows that it is dead. So it may start
                # on a disk that is full.
                if shared:
                    raise
                self.unwritten = error.with_traceback(None)
        except BaseException:
            self.unlock()
            raise

    def _register(self, **fields: object) -> None:
        """Have others see that we live. A name counts once it is locked, and somebody may just be trying that
        lock, or sweep the name away before it is: then once more.
        """
        people = self._place.fds[".processors"]
        until = time.monotonic() + _PATIENCE
        while self._person_fd is None:
            fd = self._place.disk.open_file(self.instance, people, os.O_RDWR | os.O_CREAT)
            try:
                if self._place.disk.lock(fd) and self._place.disk.fstat(fd).st_nlink > 0:
                    self._person_fd, fd = fd, -1
                elif time.monotonic() > until:
                    raise OSError(errno.EAGAIN, "somebody holds the lock of our name", self.instance)
                else:
                    time.sleep(0.001)
            finally:
                if fd >= 0:
                    self._place.disk.close(fd)
        self._said = {"pid": os.getpid(), "started": time.time(), **fields, **self.machine.fields()}
        self.tell_others()

    def tell_others(self, **fields: object) -> None:
        """Say more of ourselves, or something else, to whoever asks for the Processors of this directory."""
        if self._person_fd is None:
            return
        self._said |= fields
        # Never shorter than before: then nothing of what was there is left behind it.
        content = json.dumps(self._said).encode().ljust(self._said_bytes)
        self._said_bytes = len(content)
        with contextlib.suppress(OSError):
            self._place.disk.rewrite(self._person_fd, content)

    def _unregister(self) -> None:
        if self._person_fd is not None:
            with contextlib.suppress(OSError):
                self._place.disk.unlink(self.instance, self._place.fds[".processors"])
            self._place.disk.close(self._person_fd)
            self._person_fd, self._said_bytes = None, 0

    @contextlib.contextmanager
    def visiting(self) -> Iterator[None]:
        """Be seen to live for a moment, without being a Processor: for whoever claims a task to run nothing.
        Nobody then takes that claim for one of a Processor that has died.
        """
        if self._person_fd is not None:
            yield
            return
        self._register(visitor=True)
        try:
            yield
        finally:
            self._unregister()

    def unlock(self) -> None:
        """Be no Processor any more."""
        self._unregister()
        self._place.disk.rest()
        if self._lock_fd is not None:
            self._place.disk.close(self._lock_fd)
            self._lock_fd = None

    def _people(self) -> Iterator[tuple[str, bool, dict[str, Any]]]:
        """Who has been here: name, whether it lives, and what it says of itself."""
        people = self._place.fds[".processors"]
        for name in self._place.disk.list_dir(people):
            if name == self.instance:
                continue
            try:
                fd = self._place.disk.open_file(name, people)
            except OSError:
                continue
            try:
                alive = not self._place.disk.lock(fd)
                said = json.loads(self._place.disk.read(fd, 65536) or b"{}")
            except (OSError, ValueError):
                said = {}
            finally:
                self._place.disk.close(fd)
            yield name, alive, said if isinstance(said, dict) else {}

    def _who(self) -> str:
        for _name, alive, said in self._people():
            if alive and "pid" in said and not said.get("visitor"):
                return f"process {said['pid']} on {said.get('host')}"
        return "another Processor"

    def _is_really_held(self) -> bool:
        """Whether somebody lives who may hold the directory. One that was killed while it started a job left
        copies of its descriptors in the child, until that executes its program.
        """
        people = [said for _name, alive, said in self._people() if alive and not said.get("visitor")]
        here = self.machine.fields()
        return not people or any(
            any(said.get(name) != here[name] for name in ("machine", "boot", "pidns"))
            or _is_running(said.get("pid"))
            for said in people
        )

    def _refuse_strangers(self) -> None:
        """On a network file system our locks may not reach the other machine: believe its own record
        instead.
        """
        if not self.machine.is_remote(self._place.root):
            return
        for _name, _alive, said in self._people():
            if said.get("machine") not in (None, self.machine.machine) and not said.get("visitor"):
                who = (
                    f"process {said.get('pid')} on {said.get('host')}, which has not left cleanly; "
                    "remove its file in .processors if it is gone"
                )
                raise QueueBusy(str(self._place.path), who)

    def has_processor(self) -> bool:
        """Whether a Processor works on this directory."""
        return self._person_fd is not None or any(
            alive and not said.get("visitor") for _name, alive, said in self._people()
        )

    def processors(self) -> list[dict[str, Any]]:
        """What the living Processors of this directory say of themselves, other than this one."""
        return [said or self._unsaid(name) for name, alive, said in self._people() if alive]

    def _unsaid(self, name: str) -> dict[str, Any]:
        """What is known of one that has said nothing: its name, and whether it has had the time."""
        host, _, pid = name.rpartition("-")[0].rpartition("-")
        said: dict[str, Any] = {"host": host, "pid": int(pid) if pid.isdecimal() else None}
        with contextlib.suppress(OSError):
            said["started"] = self._place.disk.stat(name, self._place.fds[".processors"]).st_ctime
            if time.time() - said["started"] > _TIME_TO_SPEAK:
                said["causes"] = ["it cannot write how it is doing: the disk may be full or read-only"]
        return said

    def is_alive(self, instance: str) -> bool:
        """Whether a Processor lives."""
        if instance == self.instance:
            return True
        if "/" in instance:
            return False
        try:
            fd = self._place.disk.open_file(instance, self._place.fds[".processors"])
        except OSError:
            return False
        try:
            return not self._place.disk.lock(fd)
        finally:
            self._place.disk.close(fd)

    def sweep(self) -> None:
        """Remove what dead Processors and crashed submitters have left that nobody needs."""
        people = self._place.fds[".processors"]
        for name in list(self._place.disk.list_dir(people)):
            with contextlib.suppress(OSError):
                self._sweep_person(name, people)
        spares = self._place.fds[".new"]
        for name in self._place.disk.list_dir(spares):
            # They have names only where the file system has no O_TMPFILE. A writer needs seconds, not a day.
            with contextlib.suppress(OSError):
                found = self._place.disk.stat(name, spares)
                if found.st_nlink > 1 or found.st_mtime < time.time() - 86400:
                    self._place.disk.unlink(name, spares)

    def _sweep_person(self, name: str, people: int) -> None:
        if name == self.instance:
            return
        fd = self._place.disk.open_file(name, people)
        try:
            # With its lock in our hand: whoever is about to take it sees that the name is gone. And only
            # while it is this file's: another may have swept it away, and its owner have made it anew.
            if self._place.disk.lock(fd) and self._place.disk.fstat(fd).st_nlink > 0:
                self._place.disk.unlink(name, people)
        finally:
            self._place.disk.close(fd)

    def forget(self) -> None:
        """[forked copy] The queue is the original's: a copy of a lock's descriptor would hold it on."""
        for fd in (self._person_fd, self._lock_fd):
            if fd is not None:
                with contextlib.suppress(OSError):
                    self._place.disk.close(fd)
        self._person_fd = self._lock_fd = None
        self.instance = self._new_instance()

    @property
    def is_seen(self) -> bool:
        """Whether others see that we live."""
        return self._person_fd is not None


def _is_running(pid: object) -> bool:
    """Whether a process of this machine runs; a zombie does not, it only waits to be reaped."""
    if not isinstance(pid, int):
        return True
    person = Person.read(pid)
    return person is not None and not person.is_dead
