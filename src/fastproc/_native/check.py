"""The one place where an errno becomes an exception."""

from __future__ import annotations

import errno
import os

from ..errors import ForkedHandle
from .library import ffi


def check(result: int) -> int:
    """Give a successful result back, turn ``-errno`` into an exception.

    Raises:
        ForkedHandle: the object belongs to the process that this one was forked from.
        MemoryError: ``ENOMEM``.
        OSError: all others, of the subclass that belongs to the errno.
    """
    if result >= 0:
        return result
    error = -result
    if error == errno.EOWNERDEAD:
        raise ForkedHandle("this process is a forked copy: what was started before the fork is not its own")
    if error == errno.ENOMEM:
        raise MemoryError
    raise OSError(error, os.strerror(error))


def text(words: object) -> str:
    """The text of a C string that lives as long as the library."""
    result: bytes = ffi.string(words)
    return result.decode()
