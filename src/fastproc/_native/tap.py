"""What an event loop needs of the library: streams that are read without waiting, starts with more wishes."""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

from .check import check
from .handle import Handle
from .library import ffi, lib

_buffer = ffi.buffer
_new = ffi.new
_read = lib.fp_proc_read

SCRATCH_BYTES = 256 * 1024


class Scratch:
    """Room for one reading after the other; for one thread."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = _new("char[]", SCRATCH_BYTES)


class Tap:
    """Reads a followed stream from its oldest kept byte on, and never waits.

    Whoever follows from birth (Extras.follow) loses nothing. The process waits when the reader is too far
    behind.
    """

    __slots__ = ("_handle", "_offset", "_stream")

    def __init__(self, handle: Handle, stream: int) -> None:
        self._handle = handle
        self._stream = stream
        self._offset = _new("uint64_t *", 0)

    def read(self, scratch: Scratch, most: int) -> bytes | None:
        """Up to `most` bytes of what is there; b"" at the end, None if there is nothing yet."""
        size = min(most, SCRATCH_BYTES)
        count = _read(self._handle.proc, self._stream, self._offset, scratch.bytes, size, 0)
        if count > 0:
            return bytes(_buffer(scratch.bytes, count))
        if count in (-errno.ETIMEDOUT, -errno.EINTR):
            return None
        check(count)
        return b""

    def follow(self, on: bool) -> None:
        """From now on lose nothing, or let the process write on unread."""
        check(lib.fp_proc_follow(self._handle.proc, self._stream, on))


class Extras(NamedTuple):
    """What a start may be asked for and no Command can say.

    Attributes:
        program: what to execute, where that is not the first argument.
        keep_signals: leave those ignored that this program ignores.
        follow: follow the captured streams from birth.
        process_group: the group to join, that of a running process; -1 for none.
    """

    program: bytes | None = None
    keep_signals: bool = False
    follow: bool = False
    process_group: int = -1

    def apply(self, spec: Any, keep: list[object]) -> None:
        """Write it into an `fp_spec`."""
        if self.program is not None:
            program = _new("char[]", self.program)
            keep.append(program)
            spec.program = program
        if self.keep_signals:
            spec.flags |= lib.FP_KEEP_SIGNALS
        if self.follow:
            spec.flags |= lib.FP_FOLLOW_STDOUT | lib.FP_FOLLOW_STDERR
        if self.process_group >= 0:
            spec.flags |= lib.FP_JOIN_GROUP
            spec.process_group = self.process_group
