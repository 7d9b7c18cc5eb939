"""One process of the library, by its handle."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from .check import check
from .clock import remaining_ns
from .library import ffi, lib
from .owners import new_reader_owner
from .records import ExitRecord, FailureRecord, Stand, read_exit, read_failure

_PROOFS = {lib.FP_PROOF_SESSION: "session", lib.FP_PROOF_CGROUP: "cgroup", lib.FP_PROOF_GUARD: "guard"}
_CONTAINMENTS = {
    lib.FP_CONTAIN_SESSION: "session",
    lib.FP_CONTAIN_CGROUP: "cgroup",
    lib.FP_CONTAIN_GUARD: "guard",
}

_NULL = ffi.NULL
_new = ffi.new


class NeverStarted(Exception):
    """There is no end to wait for, because the start has failed."""


class Handle:
    """What can be asked of and done to a process, by its `proc_owner`.

    The owner is made empty and filled by the start, in one step. Whoever made it thus finds the child in it
    even when an exception, Ctrl-C for one, comes between the birth of the child and the return of the call.
    """

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @property
    def proc(self) -> Any:
        """The `fp_proc *`, good as long as the owner is there; NULL, hence false, before the start."""
        return self.owner.proc

    def wait_stopped(self, until: float | None) -> ExitRecord | None:
        """Block until nothing is left of it or it is reported unkillable; None if neither by `until`."""
        exit_pointer = _new("fp_exit *")
        while True:
            result = lib.fp_proc_wait_stopped(self.owner.proc, remaining_ns(until), exit_pointer)
            if result == 0:
                return read_exit(exit_pointer)
            if result == -errno.ETIMEDOUT:
                return None
            if result != -errno.EINTR:
                explain(result)

    def look(self, state: int) -> Stand:
        """Ask the kernel once: how it stands, or 0 if it has not reached `state`."""
        result = lib.fp_proc_wait(self.owner.proc, state, 0, _NULL)
        if result == 0:
            return int(lib.stand_of(self.owner))
        if result not in (-errno.ETIMEDOUT, -errno.EINTR):
            explain(result)
        return 0

    def stand(self) -> Stand:
        """How it stands, without asking the kernel."""
        return int(lib.stand_of(self.owner))

    def known(self) -> ExitRecord:
        """What is known of it, without asking the kernel."""
        exit_pointer = _new("fp_exit *")
        lib.fp_proc_status(self.owner.proc, exit_pointer)
        return read_exit(exit_pointer)

    def failure(self) -> FailureRecord | None:
        """Why its start has failed, or None if it has not."""
        failure_pointer = _new("fp_failure *")
        result = lib.fp_proc_failure(self.owner.proc, failure_pointer)
        if result == -errno.ENODATA:
            return None
        check(result)
        return read_failure(failure_pointer)

    def withdraw(self) -> bool:
        """Take a queued start back; whether that came in time."""
        result = lib.fp_proc_withdraw(self.owner.proc)
        return result != -errno.EALREADY and check(result) == 0

    @property
    def pidfd(self) -> int:
        """Its pidfd, borrowed. OSError (EBADF) once it is done, or where the kernel has none."""
        return check(lib.fp_proc_pidfd(self.owner.proc))

    @property
    def containment(self) -> str:
        """What its descendants are kept in."""
        return _CONTAINMENTS.get(lib.fp_proc_containment(self.owner.proc), "session")

    def signal(self, number: int, *, group: bool) -> bool:
        """Send a signal; False if it has ended."""
        result = lib.fp_proc_signal(self.owner.proc, number, group)
        return result != -errno.ESRCH and check(result) == 0

    def stop(self, reason: int, grace_ns: int, kill_timeout_ns: int = 0) -> bool:
        """Begin to stop it and all it contains; False if nothing is left."""
        result = lib.fp_proc_stop(self.owner.proc, reason, grace_ns, kill_timeout_ns)
        return result != -errno.ESRCH and check(result) == 0

    def report(self) -> tuple[str, list[int]]:
        """How far it is proven that nothing is left, and the pids of those who are."""
        report_pointer = _new("fp_stop_report *")
        check(lib.fp_proc_report(self.owner.proc, report_pointer))
        count = min(report_pointer.n_survivors, len(report_pointer.survivors))
        return _PROOFS.get(report_pointer.proof, "none"), list(report_pointer.survivors[0:count])

    def output(self, stream: int) -> tuple[int, int, bool, bool] | None:
        """Of a captured stream: bytes in all, bytes kept, ended, complete. None: it is not captured."""
        output_pointer = _new("fp_output *")
        result = lib.fp_proc_output(self.owner.proc, stream, output_pointer)
        if result == -errno.EINVAL:
            return None
        check(result)
        return (
            output_pointer.total_bytes,
            output_pointer.kept_bytes,
            bool(output_pointer.ended),
            bool(output_pointer.complete),
        )

    def output_bytes(self, stream: int) -> bytes:
        """Head and tail of what a captured stream has brought so far; nothing if it is not captured."""
        output = self.output(stream)
        if output is None or output[1] == 0:
            return b""
        buffer = _new("char[]", output[1])
        count = check(lib.fp_proc_output_copy(self.owner.proc, stream, buffer, output[1]))
        return bytes(ffi.buffer(buffer, count))


def stop_many(handles: Sequence[Handle], reason: int, grace_ns: int, kill_timeout_ns: int = 0) -> int:
    """Begin to stop many in one pass. Returns how many there were to stop."""
    procs = ffi.new("fp_proc *[]", [handle.proc for handle in handles])
    return check(lib.fp_procs_stop(procs, len(handles), reason, grace_ns, kill_timeout_ns))


class Reader:
    """Reads a captured stream of a process from its oldest kept byte on; nothing is lost meanwhile.

    Closed or forgotten: the process need not wait for it any more.
    """

    __slots__ = ("_buffer", "_owner")

    SIZE = 65536

    def __init__(self, handle: Handle, stream: int) -> None:
        self._buffer = _new("char[]", self.SIZE)
        self._owner = new_reader_owner("reader_owner *")
        check(lib.fp_reader_new(handle.proc, stream, ffi.addressof(self._owner, "reader")))

    def read(self) -> bytes:
        """What comes next; blocks until there is something. Nothing at the end."""
        owner = self._owner
        while True:
            count = lib.fp_reader_read(owner.reader, self._buffer, self.SIZE, -1)
            if count != -errno.EINTR:
                return bytes(ffi.buffer(self._buffer, check(count)))

    def close(self) -> None:
        """Let the process write on unread, once no other thread is in read() any more."""
        self._owner = None


def is_to_be_repeated(result: int) -> bool:
    """Whether a wait that has failed was only interrupted by a signal. False: its time is over.

    Raises:
        NeverStarted: there is no end to wait for.
    """
    if result == -errno.ETIMEDOUT:
        return False
    if result != -errno.EINTR:
        explain(result)
    return True


def explain(result: int) -> None:
    """Raise what belongs to the result of a wait that has failed."""
    if result == -errno.ECHILD:
        raise NeverStarted
    check(result)
