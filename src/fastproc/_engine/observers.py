"""Who is told what happened: all that observers are to hear is queued in order, and told by one thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from .. import _mistakes
from ..events import Escalated, Event, Exited, OrphanReaped, Refused, Started, Unkillable

log = logging.getLogger("fastproc")
log.addHandler(logging.NullHandler())
# What isEnabledFor() has found out, by level; emptied whenever a level changes.
levels: dict[int, bool] = getattr(log, "_cache", {})


class Observers:
    """The observer of one manager, the log, and the callbacks of single processes."""

    __slots__ = ("_on_event", "_untold")

    def __init__(self, on_event: Callable[[Event], object] | None) -> None:
        self._on_event = on_event
        self._untold: deque[Callable[[], object]] = deque()

    @property
    def has_observer(self) -> bool:
        """Whether somebody wants to hear of all events, whatever is logged."""
        return self._on_event is not None

    @property
    def listening(self) -> bool:
        """Whether anybody wants to hear of ordinary events."""
        if self._on_event is not None:
            return True
        return log.isEnabledFor(logging.INFO)

    def queue(self, event: Event) -> None:
        """Have an event told. Called with the roster's lock held, so the order is that of what happened."""
        self._untold.append(lambda: self._tell(event))

    def queue_call(self, call: Callable[[], object]) -> None:
        """Have a callback called, after what was queued before."""
        self._untold.append(call)

    def tell_all(self) -> None:
        """Tell what is queued, in this thread. What an observer raises is logged, and the others are told."""
        while True:
            try:
                call = self._untold.popleft()
            except IndexError:
                return
            self.call(call)

    def call(self, call: Callable[[], object]) -> None:
        """Call one, in this thread. What it raises is logged, or else said on standard error."""
        try:
            call()
        except BaseException as error:
            # To the main thread Ctrl-C comes from outside. In others all that is raised is the callback's own
            # doing, and must not end the thread that reads the news.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            _mistakes.tell("a callback failed", error)

    @property
    def waiting(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._untold)

    def _tell(self, event: Event) -> None:
        _log(event)
        if self._on_event is not None:
            self._on_event(event)


def _log(event: Event) -> None:
    """Never arguments or environment: they may be secret."""
    who = "process" if event.task_id is None else f"task {event.task_id!r}"
    match event:
        case Started():
            log.info("%s started: pid %d", who, event.pid)
        case Refused():
            log.info("%s could not be started: %s", who, type(event.error).__name__)
        case Exited():
            log.info(
                "%s ended: pid %d, %s, %s, after %.3f s",
                who,
                event.pid,
                event.status.reason.value,
                _ending(event),
                event.status.duration,
            )
        case Escalated():
            log.warning("%s did not end within its grace: pid %d, SIGKILL sent", who, event.pid)
        case Unkillable():
            log.error("%s has outlived SIGKILL: pid %d, watched on", who, event.pid)
        case OrphanReaped():
            log.info("orphan reaped: pid %d, %s", event.pid, _ending(event))
        case _:
            pass


def _ending(event: Exited | OrphanReaped) -> str:
    status = event.status
    if status.code is not None:
        return f"code {status.code}"
    return "status unknown" if status.signal is None else f"signal {status.signal}"
