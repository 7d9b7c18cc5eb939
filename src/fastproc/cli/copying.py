"""Passes on what a captured process writes, as it comes, byte for byte.

`run` needs this only for an idle timeout: silence can be noticed by nobody but who reads the output.
"""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Self

from .._native.handle import Reader
from ..process import Process

KEPT = 16 << 20
"""What the supervisor may hold for us before we read: the time from the start to `__enter__` is short."""

PATIENCE = 2.0
"""Seconds to wait for the rest of the output after the end; the supervisor's own drain ends sooner."""


class Copying:
    """While this context lasts, the process's output appears on ours. Leaving it waits for the rest.

    Attributes:
        failure: why some of it could not be written; None if all was.
    """

    def __init__(self, process: Process) -> None:
        self.failure: OSError | None = None
        self._process = process
        self._threads = [
            threading.Thread(target=self._copy, args=(stream,), name=f"fastproc-copy-{stream}", daemon=True)
            for stream in (1, 2)
        ]

    def _copy(self, stream: int) -> None:
        reader = Reader(self._process._handle, stream)
        try:
            while piece := reader.read():
                while piece:
                    piece = piece[os.write(stream, piece) :]
        except OSError as error:
            self.failure = error
            # Nobody reads what we write: let it hear what it would have heard without us between.
            self._process.send_signal(signal.SIGPIPE, group=True)
        finally:
            reader.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
