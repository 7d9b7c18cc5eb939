"""Where jobs come from: a file, checked as a whole before anything starts, or a stream, read as it comes."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from .inbox import Inbox, MoreInput
from .joblist import BadLine, Job, read_jobs

READ_AHEAD = 256
"""Jobs that a stream is read ahead; what follows stays in its pipe."""


class Feed(Protocol):
    """A source of jobs; `total` is how many there are, or None if nobody can know yet."""

    total: int | None

    @property
    def ended(self) -> bool:
        """Whether `take` has given all of them."""

    def take(self) -> Job | BadLine | None:
        """The next job; None if there is none, now or ever: see `ended`. Does not block."""

    def give_back(self, job: Job) -> None:
        """Take this job back: the next `take` gives it again."""

    def close(self) -> None: ...


class BadList(Exception):
    """The list has lines that cannot be understood; nothing has been started."""


def open_feed(path: str, inbox: Inbox, *, shell: bool) -> Feed:
    """Open a list of jobs; `-` is standard input.

    Raises:
        BadList: lines of the file cannot be understood.
        OSError: it cannot be opened.
    """
    if path != "-":
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    elif sys.stdin is not None:
        # Not sys.stdin: a thread that is left in a read of it would make the interpreter abort at exit.
        source = os.dup(sys.stdin.fileno())
    else:
        raise OSError(errno.EBADF, "it is closed", "standard input")
    mode = os.fstat(source).st_mode
    if stat.S_ISDIR(mode):
        os.close(source)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    stream = os.fdopen(source, "rb")
    if stat.S_ISREG(mode):
        return FileFeed(stream, shell=shell)
    return StreamFeed(stream, inbox, shell=shell)


def _decoded(stream: BinaryIO) -> Iterator[str]:
    for line in stream:
        yield line.decode(errors="surrogateescape")


class FileFeed:
    """A regular file: read twice, once to check and count, once to run."""

    def __init__(self, stream: BinaryIO, *, shell: bool) -> None:
        start = stream.tell()
        problems: list[str] = []
        self.total: int | None = 0
        for job in read_jobs(_decoded(stream), shell=shell):
            self.total += 1
            if isinstance(job, BadLine):
                problems.append(str(job))
            elif job.settings or job.limits:
                try:
                    job.command({}, {})
                except (TypeError, ValueError) as error:
                    problems.append(f"line {job.line}: {error}")
        if problems:
            stream.close()
            more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
            raise BadList("\n".join(problems[:10] + more))
        stream.seek(start)
        self._stream = stream
        self._jobs = read_jobs(_decoded(stream), shell=shell)
        self._back: list[Job] = []
        self.ended = False

    def take(self) -> Job | BadLine | None:
        if self._back:
            return self._back.pop()
        job = next(self._jobs, None)
        self.ended = job is None
        return job

    def give_back(self, job: Job) -> None:
        self._back.append(job)
        self.ended = False

    def close(self) -> None:
        self._stream.close()


class StreamFeed:
    """A pipe or terminal: a thread reads a bounded number of lines ahead, and says so in the inbox."""

    def __init__(self, stream: BinaryIO, inbox: Inbox, *, shell: bool) -> None:
        self.total: int | None = None
        self._jobs: deque[Job | BadLine] = deque()
        self._at_end = False
        self._room = threading.Semaphore(READ_AHEAD)
        self._inbox = inbox
        threading.Thread(target=self._read, args=(stream, shell), name="fastproc-list", daemon=True).start()

    def _read(self, stream: BinaryIO, shell: bool) -> None:
        try:
            for job in read_jobs(_decoded(stream), shell=shell):
                self._room.acquire()
                self._jobs.append(job)
                self._inbox.put(MoreInput())
        finally:
            stream.close()
            self._at_end = True
            self._inbox.put(MoreInput())

    @property
    def ended(self) -> bool:
        return self._at_end and not self._jobs

    def take(self) -> Job | BadLine | None:
        if not self._jobs:
            return None
        self._room.release()
        return self._jobs.popleft()

    def give_back(self, job: Job) -> None:
        # Room was released for it; the thread may have used that, so one more than the bound may wait.
        self._jobs.appendleft(job)

    def close(self) -> None:
        """Nothing: the thread closes the stream at its end, and may be blocked in a read of it until then."""
