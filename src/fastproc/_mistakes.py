"""Exceptions of callbacks: there is nobody to raise them to."""

from __future__ import annotations

import logging


def tell(words: str, error: BaseException) -> None:
    """Log an exception as an error, and say it on standard error if nobody listens to the log.

    As any logger does that has no handler. Ours has one that does nothing, so that events are silent; a
    mistake is not to be.
    """
    log = logging.getLogger("fastproc")
    log.error(words, exc_info=error)
    if log.isEnabledFor(logging.ERROR) and not _is_heard(log) and logging.lastResort is not None:
        trouble = (type(error), error, error.__traceback__)
        logging.lastResort.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, words, (), trouble))


def _is_heard(log: logging.Logger) -> bool:
    each: logging.Logger | None = log
    while each is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in each.handlers):
            return True
        each = each.parent if each.propagate else None
    return False
