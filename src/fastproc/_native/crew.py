"""A crew of supervisors, as many as there are CPUs; each serves in a thread that is lent to it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from . import ledger
from .check import check
from .library import ffi, lib
from .mailbox import Mailbox
from .records import FailureRecord

# A bound that is none. With 0 each call would be a queue of its own, and the latest the first.
ANY_NUMBER: Final = 2**32 - 1

_new = ffi.new


class StartFailed(Exception):
    """A start has failed; `failure` says at which step."""

    def __init__(self, failure: FailureRecord) -> None:
        super().__init__(failure)
        self.failure = failure


class Crew:
    """Supervisors that know of one another."""

    __slots__ = ("_array", "_supervisors", "size")

    def __init__(self, size: int) -> None:
        self._supervisors: list[Any] = []
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

    @property
    def supervisors(self) -> Any:
        """All of them, as an array that lives as long as this."""
        return self._array


class Starter:
    """Starts processes of one manager, in turn under each supervisor of a crew, and counts them.

    The mailbox must not go while a start is under way, and may go then: processes that name it keep what
    await_exit() needs of it.
    """

    __slots__ = ("_at", "_crew", "_tally", "common", "starts")

    def __init__(self, crew: Crew, tally: Any, mailbox: Mailbox) -> None:
        self._crew = crew
        self._tally = tally
        self.starts = starts = _new("starts *")
        self._at = ledger.address(starts)
        starts.crew = crew.supervisors
        starts.n_crew = crew.size
        starts.tally = tally
        # A spec with what all starts have in common; the plain ones say nothing more but their arguments.
        self.common = spec = starts.common
        spec.size = ffi.sizeof("fp_spec")
        spec.mailbox = mailbox.mailbox

    def start(self, owner: Any, spec: Any) -> None:
        """Start a program in this thread; it has passed execve(2) on return, and is in `owner`.

        Raises:
            StartFailed: nothing is left of it.
        """
        result = lib.start_spec(self.starts, owner, spec)
        if result < 0:
            refuse(result, owner)

    def start_many(self, owners: Sequence[Any], specs: Sequence[Any], max_running: int = ANY_NUMBER) -> None:
        """Queue many starts, `max_running` at a time. If it raises, nothing is queued."""
        count = len(specs)
        cells = _new("proc_owner *[]", owners)
        check(lib.start_many(self.starts, cells, _new("fp_spec *[]", specs), count, max_running))

    def start_all_plain(
        self,
        entries: Sequence[ledger.Entry],
        args_blocks: list[bytes],
        max_running: int = ANY_NUMBER,
    ) -> None:
        """Queue many of which nothing is said but their arguments. What one starter queues is one queue."""
        check(ledger.queue_entries(self._at, entries, args_blocks, max_running))


def wait_started(entries: Sequence[ledger.Entry]) -> int:
    """Block until each of them has been started or has failed. Returns how many have failed."""
    return check(ledger.await_starts(entries))


def refuse(result: int, owner: Any) -> NoReturn:
    """Raise what belongs to a start that has failed at once."""
    if result == -errno.EOWNERDEAD:
        check(result)
    failure = owner.failure
    if failure.error:
        raise StartFailed((failure.error, failure.stage, failure.detail))
    raise StartFailed((-result, failure.stage, failure.detail))
