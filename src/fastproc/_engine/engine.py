"""The one engine of a program: a crew of supervisors and the threads lent to them.

It is made when the first process is started and lives until the interpreter exits. Its threads sit in the C
library and never take the interpreter's lock, so deadlines are kept and children reaped whatever Python does.
"""

from __future__ import annotations

import _thread
import atexit
import errno
import importlib
import os
import resource
import threading
from typing import Any, Protocol

from .._native.crew import Crew
from ..errors import spawn_error
from . import fork

# More descriptors than this serve nobody, and make those slow who walk through all possible numbers.
_DESCRIPTORS_AT_MOST = 1 << 20
_JOIN_SECONDS = 2.0


class Busy(Protocol):
    """Somebody with processes that must not outlive the interpreter."""

    def close_at_exit(self, *, patient: bool) -> None: ...


class Engine:
    """The crew, its threads, and those who have something running."""

    __slots__ = ("_threads", "busy", "crew", "ending", "open_files")

    def __init__(self) -> None:
        self.open_files = _raise_open_files()
        # Two at least: while a start in one of them hangs, queued ones go on in the other.
        self.crew = Crew(max(2, len(os.sched_getaffinity(0))))
        # Strong references: processes do not end because their manager was forgotten.
        self.busy: set[Busy] = set()
        self.ending = False
        self._threads: list[threading.Thread] = []
        try:
            for index in range(self.crew.size):
                thread = threading.Thread(
                    target=self.crew.serve, args=(index,), name=f"fastproc-supervisor-{index}", daemon=True
                )
                thread.start()
                self._threads.append(thread)
        except RuntimeError:
            self.stop()
            words = "no thread could be started for a supervisor"
            raise spawn_error(errno.EAGAIN, "supervisor", words=words) from None

    def stop(self) -> None:
        """Give the threads back. What still runs is left running, unwatched."""
        self.crew.stop()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        if not any(thread.is_alive() for thread in self._threads):
            self.crew.free()


def _raise_open_files() -> tuple[int, int] | None:
    """Make room for many pidfds and pipes; returns the limit for children, if it was raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_AT_MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return None
    return soft, 2**64 - 1 if hard == resource.RLIM_INFINITY else hard


def _is_main_interpreter() -> bool:
    """Whether this is no subinterpreter: those may have no threads that outlive them, and end in an abort."""
    asked = getattr(_thread, "_is_main_interpreter", None)  # Python 3.13
    if asked is not None:
        return bool(asked())
    try:
        interpreters: Any = importlib.import_module("_xxsubinterpreters")
    except ImportError:
        return True  # there are no others in this build
    return bool(interpreters.get_current() == interpreters.get_main())


_engine: Engine | None = None
_exiting = False
# An RLock: a signal handler may start a process while its own thread is making the engine.
_lock = threading.RLock()


def engine() -> Engine:
    """The engine, made by the first who asks.

    Raises:
        SpawnError: there is no thread for it, the interpreter is exiting, or is not the main one.
        OSError: there is no descriptor for it.
    """
    global _engine
    with _lock:
        if _exiting:
            raise spawn_error(errno.ESHUTDOWN, "supervisor", words="the interpreter is exiting")
        if _engine is not None:
            return _engine
        if getattr(threading, "_SHUTTING_DOWN", False):
            # What is registered now is called no more: nobody would end what is started.
            raise spawn_error(errno.ESHUTDOWN, "supervisor", words="the interpreter is exiting")
        if not _is_main_interpreter():
            words = "a subinterpreter has no supervisor; start processes in the main interpreter"
            raise spawn_error(errno.ENOTSUP, "supervisor", words=words)
        made = Engine()
        meanwhile = _made_meanwhile()
        if meanwhile is not None:
            made.stop()
            return meanwhile
        _engine = made
        atexit.register(_at_exit)
        return made


def _made_meanwhile() -> Engine | None:
    return _engine


def _at_exit() -> None:
    """End what was left running, then let go of the threads, while the interpreter is still whole."""
    global _engine, _exiting
    stopping, _engine = _engine, None
    _exiting = True
    if stopping is None:
        return
    stopping.ending = True
    try:
        _close_all(stopping, patient=True)
    except BaseException:
        # Ctrl-C may have come before somebody was told to end. Who is closed already has nothing to do.
        _close_all(stopping, patient=False)
        raise
    finally:
        stopping.stop()


def _close_all(stopping: Engine, *, patient: bool) -> None:
    trouble: BaseException | None = None
    for busy in list(stopping.busy):
        try:
            busy.close_at_exit(patient=patient and trouble is None)
        except BaseException as error:  # noqa: BLE001 - Ctrl-C in one's grace: the others are ended too, soon
            trouble = error
    if trouble is not None:
        raise trouble


def _forget() -> None:
    """In a forked copy: there are no threads here, and the objects in C belong to the original."""
    global _engine, _lock
    _engine = None
    _lock = threading.RLock()


fork.in_copy(_forget)
