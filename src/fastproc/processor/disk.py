"""Every system call that the directory store makes, one method each, so that a test can stand in between.

A test wraps `Disk` to count, to fail or to die at the k-th call, or to record what a power loss would leave.
The methods decide nothing. Four calls that Python does not have come through ctypes: renameat2(2),
linkat(2) with AT_SYMLINK_FOLLOW, which links a file that was opened without a name, sync_file_range(2),
and inotify(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

_AT_FDCWD = -100
_AT_SYMLINK_FOLLOW = 0x400
_RENAME_NOREPLACE = 1
_SYNC_FILE_RANGE_WRITE = 2
_WHOLE = ctypes.c_int64(0)  # an offset of 0 and a length of 0, to the end
_SYNCING_THREADS = 6
_libc = ctypes.CDLL(None, use_errno=True)

# What a file system or kernel says that has no RENAME_NOREPLACE, or no files without a name.
_NOT_THERE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EISDIR})


class Disk:
    """The system calls. Thread-safe as the kernel is; names are relative to a directory's descriptor."""

    __slots__ = ("_helpers", "_nameless", "_noreplace")

    def __init__(self) -> None:
        # Such a file gets its name through /proc, which may not be mounted.
        self._nameless = os.path.exists("/proc/self/fd")
        self._noreplace = hasattr(_libc, "renameat2")
        self._helpers: _Helpers | None = None

    # ---- directories ----

    def mkdir(self, name: str, dir_fd: int | None = None) -> None:
        os.mkdir(name, 0o700, dir_fd=dir_fd)

    def open_dir(self, name: str, dir_fd: int | None = None) -> int:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)

    def list_dir(self, dir_fd: int) -> Iterator[str]:
        """The names in a directory, read in pieces: a million of them need not fit into a list."""
        # scandir() closes what it is given, and reads on from where the descriptor stands.
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            with os.scandir(own) as entries:
                for entry in entries:
                    yield entry.name
        finally:
            os.close(own)

    # ---- files ----

    def open_file(self, name: str, dir_fd: int, flags: int = os.O_RDONLY) -> int:
        """Open without following a symlink and without waiting for a FIFO's other end."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)

    def create_nameless(self, dir_fd: int, spare_dir_fd: int, spare: str) -> tuple[int, str | None]:
        """A new file of that directory without a name, or where that cannot be had one named `spare`
        elsewhere.
        """
        if self._nameless:
            try:
                return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=dir_fd), None
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                self._nameless = False
        return self.create(spare, spare_dir_fd), spare

    def create(self, name: str, dir_fd: int) -> int:
        """A new file; FileExistsError if the name is taken."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)

    def publish(self, fd: int, spare: str | None, spare_dir_fd: int, name: str, dir_fd: int) -> None:
        """Give such a file its name; FileExistsError if that is taken."""
        if spare is not None:
            self.rename_new(spare, spare_dir_fd, name, dir_fd)
            return
        path = f"/proc/self/fd/{fd}".encode()
        if _libc.linkat(_AT_FDCWD, path, dir_fd, os.fsencode(name), _AT_SYMLINK_FOLLOW) != 0:
            _raise(name)

    def write(self, fd: int, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]

    def rewrite(self, fd: int, content: bytes) -> None:
        """Write from the beginning, in one call: whoever reads meanwhile sees the old or the new."""
        os.pwrite(fd, content, 0)

    def stamp(self, fd: int, moment_ns: int) -> None:
        """Set when a file was written, finer than the kernel does: its clock for that ticks in 4 ms."""
        os.utime(fd, ns=(moment_ns, moment_ns))

    def read(self, fd: int, most: int) -> bytes:
        """The first `most` bytes of a file."""
        piece = os.pread(fd, min(most, 65536), 0)
        if len(piece) < min(most, 65536):
            return piece  # its end, see read(2) on regular files
        pieces = []
        at = 0
        while piece:
            pieces.append(piece)
            at += len(piece)
            piece = os.pread(fd, most - at, at) if at < most else b""
        return b"".join(pieces)

    def rename_new(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        """Rename, and never over an existing name: FileExistsError."""
        if self._noreplace:
            if (
                _libc.renameat2(
                    dir_fd, os.fsencode(name), new_dir_fd, os.fsencode(new_name), _RENAME_NOREPLACE
                )
                == 0
            ):
                return
            error = ctypes.get_errno()
            if error not in _NOT_THERE:
                raise OSError(error, os.strerror(error), name)
            self._noreplace = False
        # Two steps: after a crash in between both names are one file, and the store keeps the further one.
        os.link(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd, follow_symlinks=False)
        # Whoever meets the two names may have finished the move.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=dir_fd)

    def replace(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        os.rename(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd)

    def unlink(self, name: str, dir_fd: int) -> None:
        os.unlink(name, dir_fd=dir_fd)

    def stat(self, name: str, dir_fd: int) -> os.stat_result:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def exists(self, name: str, dir_fd: int) -> bool:
        """Whether there is such a name. access(2) asks a third of what stat() and its exception cost."""
        return os.access(name, os.F_OK, dir_fd=dir_fd, effective_ids=True, follow_symlinks=False)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    # ---- durability ----

    def begin_write_back(self, fd: int) -> None:
        """Have the kernel begin to write a file, so that several fsync() after it share one journal commit.

        Eight fsync() after it cost half as much on ext4. Not posix_fadvise(2): its POSIX_FADV_DONTNEED begins
        this too, and then waits for a worker on every processor. It is a hint, and may fail.
        """
        _libc.sync_file_range(fd, _WHOLE, _WHOLE, _SYNC_FILE_RANGE_WRITE)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_all(self, fds: Sequence[int]) -> None:
        """Sync several at once, in threads: those that wait together share a commit of the journal and a
        flush of the disk. Eight one after the other take ten times as long on ext4.

        Each thread takes what is left until nothing is, and one that comes late finds nothing: that costs
        less than a thread for each.
        """
        syncs = _Syncs(self.sync, fds)
        if len(fds) > 1:
            if self._helpers is None:
                self._helpers = _Helpers()
            self._helpers.help(syncs, min(len(fds), _SYNCING_THREADS) - 1)
        syncs.carry_out()

    def rest(self) -> None:
        """End the threads of sync_all(); they come back when they are needed."""
        helpers, self._helpers = self._helpers, None
        if helpers is not None:
            helpers.dismiss()

    def forget(self) -> None:
        """[forked copy] The threads are the original's."""
        self._helpers = None

    # ---- locks ----

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        """Take the lock of an open file, flock(2), without waiting. The kernel gives it back when all copies
        of the descriptor are closed, those that children have inherited among them.
        """
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_being_written(self, fd: int) -> bool | None:
        """Whether somebody has this file open for writing; None if the kernel does not say.

        A read lease is granted only if nobody has, see fcntl(2). It is given back at once.
        """
        try:
            # Whoever opens the file in between is made to wait that moment, and we are sent this signal
            # instead of SIGIO, which would end the program; it is ignored by default.
            fcntl.fcntl(fd, _F_SETSIG, _SIGURG)
            fcntl.fcntl(fd, _F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            return True if error.errno == errno.EAGAIN else None
        fcntl.fcntl(fd, _F_SETLEASE, fcntl.F_UNLCK)
        return False


class _Syncs:
    """What is to be synced in one go. Several threads take part; one carries it out, and hears of all."""

    __slots__ = ("_begun", "_ended", "_errors", "_left", "_sync")

    def __init__(self, sync: Callable[[int], None], fds: Sequence[int]) -> None:
        self._sync = sync
        self._left = deque(fds)
        self._begun: list[None] = []
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._errors: list[BaseException] = []

    def carry_out(self) -> None:
        """Sync all of it, with those who take part; the first error of any is raised when all are over."""
        try:
            while self._left:
                self._sync_next(OSError)
        finally:
            # All have to be over before anybody closes what they sync. Who begins from here on finds nothing.
            self._left.clear()
            ended = 0
            while ended < len(self._begun):
                self._ended.get()
                ended += 1
        if self._errors:
            raise self._errors[0]

    def take_part(self) -> None:
        """[a helper's thread] Sync what nobody else has begun."""
        if not self._left:
            return
        self._begun.append(None)
        try:
            while self._left:
                self._sync_next(BaseException)
        finally:
            self._ended.put(None)

    def _sync_next(self, kept: type[BaseException]) -> None:
        try:
            fd = self._left.popleft()
        except IndexError:
            return  # another thread was first
        try:
            self._sync(fd)
        except kept as error:
            self._errors.append(error)


class _Helpers:
    """Threads that take part in what they are called for. A ThreadPoolExecutor does the same with a future
    for each call, at four times the cost.
    """

    __slots__ = ("_calls", "_threads")

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Syncs | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def help(self, syncs: _Syncs, count: int) -> None:
        """Call so many of them, or as many as there can be: whoever calls does what they do not."""
        while len(self._threads) < count:
            thread = threading.Thread(
                target=_serve, args=(self._calls,), name=f"fastproc-sync-{len(self._threads)}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is about to exit, and starts no threads any more; or there are too many.
                break
            self._threads.append(thread)
        for _ in range(min(count, len(self._threads))):
            self._calls.put(syncs)

    def dismiss(self) -> None:
        """End them."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._calls.put(None)
        for thread in threads:
            thread.join()

    def __del__(self) -> None:
        for _ in self._threads:
            self._calls.put(None)


def _serve(calls: SimpleQueue[_Syncs | None]) -> None:
    while (syncs := calls.get()) is not None:
        syncs.take_part()
        del syncs


_F_SETSIG = 10
_F_SETLEASE = 1024
_SIGURG = 23


def _raise(name: str) -> None:
    error = ctypes.get_errno()
    raise OSError(error, os.strerror(error), name)


class Watch:
    """What arrives in some directories, by inotify(7). Readable when there is news; see fileno()."""

    __slots__ = ("_fd", "_names")

    _ARRIVED = 0x08 | 0x80 | 0x100  # IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE
    _ONLY_DIRECTORIES = 0x01000000
    _OVERFLOW = 0x4000
    _IGNORED = 0x8000

    def __init__(self) -> None:
        fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            _raise("inotify")
        self._fd = int(fd)
        self._names: dict[int, str] = {}

    def add(self, directory_fd: int, name: str) -> None:
        """Watch a directory, which take() shall call `name`."""
        path = f"/proc/self/fd/{directory_fd}/.".encode()
        number = _libc.inotify_add_watch(self._fd, path, self._ARRIVED | self._ONLY_DIRECTORIES)
        if number < 0:
            _raise(name)
        self._names[number] = name

    def take(self) -> Iterator[tuple[str, str | None]]:
        """What has arrived: directory and file name; a name of None means that some were missed."""
        while True:
            try:
                news = os.read(self._fd, 65536)
            except BlockingIOError:
                return
            at = 0
            while at < len(news):
                number, mask, _cookie, length = struct.unpack_from("iIII", news, at)
                raw = news[at + 16 : at + 16 + length].rstrip(b"\0")
                at += 16 + length
                if mask & (self._OVERFLOW | self._IGNORED):
                    for directory in self._names.values():
                        yield directory, None
                elif number in self._names:
                    yield self._names[number], os.fsdecode(raw)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)
