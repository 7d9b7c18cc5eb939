"""Cancel tokens: one switch for many processes, with an optional deadline."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ._checks import callback as checked_callback, seconds

_DEADLINE = "deadline"
_MOST = 9.2e9
"""Seconds that the clock can still hold; more is for ever, as for a command."""


class CancelToken:
    """Stops whatever was started with it, when cancelled or when its time is up.

    A token made with a parent is cancelled with it, but not the other way round, and its deadline
    is never later than the parent's. Safe from any thread. A token has no timer: the supervisor
    of each process keeps the deadline, and whoever asks compares with the clock.

    Args:
        timeout: seconds from now until it counts as cancelled; None for never.
        parent: the token that this one is part of.
    """

    __slots__ = ("__weakref__", "_callbacks", "_children", "_deadline", "_lock", "_parent", "_reason")

    def __init__(self, timeout: float | None = None, parent: CancelToken | None = None) -> None:
        if timeout is not None:
            timeout = seconds("timeout", timeout)
        if parent is not None and not isinstance(parent, CancelToken):
            raise TypeError(f"parent must be a CancelToken, not {parent!r}")
        # A signal handler may cancel while its own thread is in here. Hence an RLock, and hence
        # all below first registers and then looks whether it came too late.
        self._lock = threading.RLock()
        self._reason: str | None = None
        self._callbacks: dict[object, Callable[[], object]] = {}
        # Weak: a long-lived parent shall not keep every token that was ever made from it.
        self._children: weakref.WeakSet[CancelToken] = weakref.WeakSet()
        self._parent = parent
        self._deadline: float = math.inf if timeout is None or timeout > _MOST else time.monotonic() + timeout
        if parent is not None:
            self._deadline = min(self._deadline, parent._deadline)
            with parent._lock:
                parent._children.add(self)
                self._reason = parent._reason

    @property
    def deadline(self) -> float | None:
        """The point on the monotonic clock at which it counts as cancelled, or None for never."""
        return None if self._deadline == math.inf else self._deadline

    @property
    def parent(self) -> CancelToken | None:
        return self._parent

    @property
    def cancelled(self) -> bool:
        """Whether it, or a token above it, was cancelled, or its deadline has passed."""
        return self._reason is not None or time.monotonic() >= self._deadline

    @property
    def reason(self) -> str | None:
        """What cancel() was told; "deadline" once its time is up; None while it is not cancelled."""
        if self._reason is not None:
            return self._reason
        return _DEADLINE if time.monotonic() >= self._deadline else None

    def cancel(self, reason: str = "") -> bool:
        """Cancel it and all tokens below it; returns False if that was done before.

        The callbacks run in the calling thread; when this returns they have run.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {reason!r}")
        first = False
        now = time.monotonic()
        waiting = [self]
        while waiting:
            token = waiting.pop()
            with token._lock:
                if token._reason is not None:
                    continue
                token._reason = reason if now < token._deadline else _DEADLINE
                first = first or token is self
                callbacks, token._callbacks = token._callbacks, {}
                waiting.extend(token._children)
            for callback in callbacks.values():
                _call(callback)
        return first

    def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Have `callback` called once, without arguments, when cancel() is called here or above.

        It runs in the thread that cancels, at once if that has happened already, and not when the
        deadline passes. What it raises is logged, or said on standard error where nobody listens
        to the log. Returns a function that takes it back.
        """
        checked_callback("callback", callback)
        key = object()

        def remove() -> None:
            self._callbacks.pop(key, None)

        with self._lock:
            self._callbacks[key] = callback
            late = self._reason is not None and self._callbacks.pop(key, None) is not None
        if late:
            _call(callback)
        return remove

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            "a CancelToken cannot be pickled or copied: it is one switch, of the program that has made it"
        )

    def __repr__(self) -> str:
        if self.cancelled:
            return f"<CancelToken cancelled: {self.reason or 'no reason given'}>"
        if self._deadline == math.inf:
            return "<CancelToken>"
        return f"<CancelToken with {self._deadline - time.monotonic():.3f} s left>"


def check_cancel(cancel: CancelToken) -> None:
    """Raise TypeError if what was given as ``cancel=`` is no token."""
    if not isinstance(cancel, CancelToken):
        raise TypeError(f"cancel must be a CancelToken or None, not {cancel!r}")


def _call(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception as error:  # noqa: BLE001 - it shall not keep the others from hearing, nor harm who cancels
        # The log is imported when it is needed.
        from ._mistakes import tell

        tell("a callback of a CancelToken failed", error)
