"""The thread that tells the observers of one manager. It exists while there is somebody to be told.

It sleeps in the mailbox, and what it finds there it enters like anybody else who reads news: so ends are
entered also when nobody asks for them. When nobody has a wish left it soon pays no attention to news, which
would wake it for each child, and by and by it goes. It comes again with the next wish.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Protocol

from .._native.clock import FOREVER, nanoseconds
from .._native.mailbox import Mailbox
from .._native.records import NewsRecord
from ..events import Event
from .observers import Observers, log

# So long does it wait for the next wish before it goes, and only at first with an ear for news.
_LINGER_NS = nanoseconds(1.0)
_LISTEN_SECONDS = 0.02
_LISTEN_NS = nanoseconds(_LISTEN_SECONDS)


class Source(Protocol):
    """Where that which is to be told comes from: the roster."""

    name: str
    lock: threading.RLock
    closed: bool

    def read(self, news: NewsRecord) -> None:
        """Enter one piece of news."""
        ...

    def keep(self) -> None:
        """The program shall not exit before this is closed."""
        ...

    def relax(self) -> None:
        """There may be nothing left that this is kept for."""
        ...


class Dispatcher:
    """See above. Everything but `dismiss` and `tell_all` is called with the source's lock held."""

    __slots__ = (
        "_always",
        "_resting",
        "_source",
        "dismissed",
        "mailbox",
        "observers",
        "telling",
        "thread",
        "wishes",
    )

    def __init__(self, source: Source, on_event: Callable[[Event], object] | None, *, always: bool) -> None:
        """`always`: it is needed from the first start on, whether or not anybody is to be told."""
        self._source = source
        self._always = always
        self.observers = Observers(on_event)
        # None before the first start, and after the close.
        self.mailbox: Mailbox | None = None
        self.thread: threading.Thread | None = None
        # How many processes have callbacks.
        self.wishes = 0
        # Whether anybody wants to hear of ordinary events, as of the last start.
        self.telling = False
        self.dismissed = False
        # Whether the thread pays no attention to news.
        self._resting = False

    def listen(self) -> None:
        """See with each start whether anybody wants to hear of it: logging may be switched on at any time."""
        telling = self.telling = self.observers.listening
        if telling or self._always:
            self.attend()

    def attend(self) -> None:
        """Have the thread, and its attention."""
        if self.thread is None:
            self.begin()
        elif self._resting and self.mailbox is not None:
            self._resting = False
            self.mailbox.wake()

    def queue(self, event: Event) -> None:
        """Have an event told."""
        self.observers.queue(event)
        self._stir()

    def queue_calls(self, calls: list[Callable[[], object]]) -> None:
        """Have callbacks called, after what was queued before."""
        for call in calls:
            self.observers.queue_call(call)
        self._stir()

    def _stir(self) -> None:
        """See that somebody tells what has been queued."""
        if self.thread is None:
            self.begin()
        elif self.thread is not threading.current_thread() and self.mailbox is not None:
            self.mailbox.wake()

    def begin(self) -> None:
        """Have the thread."""
        if self.mailbox is None:
            return
        self.dismissed = self._resting = False
        thread = threading.Thread(target=self._serve, name=f"fastproc-news-{self._source.name}", daemon=True)
        self.thread = thread
        try:
            thread.start()
        except RuntimeError:
            # No thread is to be had, at interpreter exit for one. What is queued is told by the close.
            self.thread = None
        else:
            self._source.keep()

    def _serve(self) -> None:
        """The thread: read the news, tell what is to be told."""
        # Signals are for the main thread, which could not run their handlers if this one were woken.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        me = threading.current_thread()
        source = self._source
        idle_since: float | None = None
        while True:
            with source.lock:
                wanted = self._is_wanted()
                if wanted:
                    idle_since = None
                elif idle_since is None:
                    idle_since = time.monotonic()
                rests = idle_since is not None and time.monotonic() - idle_since > _LISTEN_SECONDS
                self._resting = rests
            news, gone_by = self._rest() if rests else self._take(FOREVER if wanted else _LISTEN_NS)
            for item in news:
                try:
                    source.read(item)
                except Exception:  # noqa: BLE001 - ruff takes no notice of log.exception() from elsewhere
                    # A mistake of ours about one process shall not leave the others unheard.
                    log.exception("news could not be entered")
            self.observers.tell_all()
            with source.lock:
                if (self.dismissed or (gone_by and not self._is_wanted())) and not self.observers.waiting:
                    if self.thread is me:
                        self.thread = None
                        source.relax()
                    return

    def _is_wanted(self) -> bool:
        return self.wishes > 0 or (not self._source.closed and (self._always or self.telling))

    # What there are of news, and whether it is time to go. The mailbox is no variable of the loop above: a
    # traceback kept by a log would keep it open.

    def _take(self, timeout_ns: int) -> tuple[list[NewsRecord], bool]:
        mailbox = self.mailbox
        return ([], True) if mailbox is None else (mailbox.take(timeout_ns) or [], False)

    def _rest(self) -> tuple[list[NewsRecord], bool]:
        mailbox = self.mailbox
        return [], mailbox is None or not mailbox.rest(_LINGER_NS)

    def pass_on(self) -> None:
        """Somebody else has read the news: a wake-up that was meant for the thread may have been taken."""
        thread, mailbox = self.thread, self.mailbox
        untold = self.observers.waiting or self.dismissed
        if untold and mailbox is not None and thread not in (None, threading.current_thread()):
            mailbox.wake()

    def send_away(self) -> None:
        """Let the thread go once all is told, without waiting for that. Takes no lock."""
        self.dismissed = True
        mailbox = self.mailbox
        if self.thread is not None and mailbox is not None:
            mailbox.wake()

    def dismiss(self, seconds: float) -> None:
        """The same, and wait for it, unless it is the thread itself that asks."""
        with self._source.lock:
            self.dismissed = True
            thread = self.thread
            if self.mailbox is not None:
                self.mailbox.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
        self.observers.tell_all()
