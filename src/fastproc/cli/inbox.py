"""The one queue that a command of ours waits at: ends of processes, interrupts, outcomes of stopping.

Signal handlers only put a note into it and return: SimpleQueue.put() may be called from a handler, and
nothing else of the program runs in between. So Ctrl-C can neither tear a step in two nor lose a process.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Protocol, Self, TypeAlias

from ..events import Unkillable
from ..manager import ProcessManager
from ..process import Process
from ..status import StopReport
from .quantities import signal_name

# Those that report a fault of our own: what ran on after them could do anything.
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS"}
_DO_NOT_END = {"SIGCHLD", "SIGCLD", "SIGCONT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"}
_CANNOT_BE_HANDLED = {"SIGKILL", "SIGSTOP"}

INTERRUPTS = tuple(
    sorted(
        int(number)
        for number in signal.valid_signals()
        if signal_name(number) not in _FAULTS | _DO_NOT_END | _CANNOT_BE_HANDLED
    )
)
"""All that would end us, see signal(7), with the real-time signals: what runs would be left alone."""

AT_ONCE = frozenset({int(signal.SIGQUIT)})
"""Those that give no grace: the terminal sends it for those who do not want to wait."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A signal that asks us to end."""

    signal: int


@dataclass(frozen=True, slots=True)
class MoreInput:
    """The list of jobs has more to read, or has ended."""


Note: TypeAlias = Process | Interrupt | MoreInput | StopReport | Unkillable
Inbox: TypeAlias = "SimpleQueue[Note]"


def next_note(inbox: Inbox) -> Note:
    """Wait for one. A signal that comes as we fall asleep wakes nobody: so we look up once a second."""
    while True:
        try:
            return inbox.get(timeout=1)
        except Empty:
            continue


class TakesInterrupts(Protocol):
    """Any inbox, whatever else it takes."""

    def put(self, item: Interrupt, /) -> None: ...


class Interrupts:
    """While this context lasts, what would end us is a note in the inbox: SIGINT, SIGTERM and all others."""

    def __init__(self, inbox: TakesInterrupts) -> None:
        self._inbox = inbox
        self._before: dict[int, object] = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._inbox.put(Interrupt(number))

    def __enter__(self) -> Self:
        for number in INTERRUPTS:
            # One that was ignored before us, as nohup(1) does with SIGHUP, stays ignored, and None is one
            # that somebody else's code in C hears.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def stop_all(manager: ProcessManager, grace: float, inbox: Inbox) -> None:
    """Begin to stop all that runs, in the background; the StopReport comes as a note.

    Called again with a shorter grace it shortens the first, so a second Ctrl-C kills.
    """

    def stop() -> None:
        inbox.put(manager.terminate_all(timeout=grace))

    threading.Thread(target=stop, name="fastproc-stop", daemon=True).start()
