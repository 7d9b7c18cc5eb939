"""A crew of supervisors, as many as there are CPUs; each serves in a thread that is lent to it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from .check import check
from .handle import Handle
from .library import ffi, lib
from .mailbox import Mailbox
from .records import FailureRecord, read_failure

_NULL = ffi.NULL
_new = ffi.new
_spawn = lib.fp_spawn


class StartFailed(Exception):
    """A start has failed; `failure` says at which step."""

    def __init__(self, failure: FailureRecord) -> None:
        super().__init__(failure)
        self.failure = failure


class Crew:
    """Supervisors that know of one another."""

    __slots__ = ("_array", "_supervisors", "_turn", "size")

    def __init__(self, size: int) -> None:
        self._supervisors: list[Any] = []
        self._turn = 0
        try:
            for _ in range(size):
                options = _new("fp_supervisor_options *")
                options.size = ffi.sizeof("fp_supervisor_options")
                if self._supervisors:
                    options.sibling = self._supervisors[0]
                cell = _new("fp_supervisor **")
                check(lib.fp_supervisor_new(options, cell))
                self._supervisors.append(cell[0])
        except BaseException:
            self.free()
            raise
        self._array = _new("fp_supervisor *[]", self._supervisors)
        self.size = size

    def serve(self, index: int) -> None:
        """Lend this thread to a supervisor until stop(); the interpreter's lock is not held meanwhile."""
        lib.fp_supervisor_run(self._supervisors[index])

    def stop(self) -> None:
        """Start nothing more, and give all threads back."""
        for supervisor in self._supervisors:
            lib.fp_supervisor_stop(supervisor)

    def free(self) -> None:
        """Once all threads are back. Handles stay valid."""
        while self._supervisors:
            lib.fp_supervisor_free(self._supervisors.pop())

    def adopt_orphans(self, mailbox: Mailbox) -> None:
        """Make this process a subreaper, and reap orphans of managed children; the news go to `mailbox`."""
        check(lib.fp_supervisor_adopt_orphans(self._supervisors[0], mailbox.mailbox))

    def spawn(self, spec: Any, handle: Handle) -> None:
        """Start a program in this thread; it has passed execve(2) on return, and is in `handle`.

        Raises:
            StartFailed: nothing is left of it.
        """
        # Two threads may draw the same turn: no harm, it only spreads the load.
        turn = self._turn = (self._turn + 1) % self.size
        handle.cells = cell = _new("fp_proc **")
        failure = _new("fp_failure *")
        result = _spawn(self._supervisors[turn], spec, cell, failure)
        if result < 0:
            _refuse(result, failure)
        handle.settle()

    def spawn_many(self, specs: Sequence[Any], handles: Sequence[Handle], max_running: int = 0) -> None:
        """Queue many starts, `max_running` at a time (0: no bound). If it raises, nothing is queued."""
        count = len(specs)
        cells = _new("fp_proc *[]", count)
        for index, handle in enumerate(handles):
            handle.cells, handle.index = cells, index
        pointers = _new("fp_spec *[]", specs)
        result = lib.fp_spawn_many(self._array, self.size, pointers, count, max_running, cells)
        if result < 0:
            for handle in handles:
                handle.cells = None
            check(result)
        for handle in handles:
            handle.settle()


def wait_started(handles: Sequence[Handle]) -> None:
    """Block until each of them has been started or has failed."""
    procs = _new("fp_proc *[]", [handle.proc for handle in handles])
    while True:
        result = lib.fp_procs_wait_started(procs, len(handles), -1)
        if result != -errno.EINTR:
            check(result)
            return


def _refuse(result: int, failure: Any) -> None:
    record = read_failure(failure)
    if result == -errno.EOWNERDEAD:
        check(result)
    raise StartFailed(record if record[0] else (-result, record[1], record[2]))
