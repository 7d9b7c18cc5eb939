"""A CancelToken is one switch for many, from any thread."""

from __future__ import annotations

import copy
import functools
import gc
import logging
import math
import pickle
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from fastproc.cancel import CancelToken


def test_a_token_is_cancelled_once_and_keeps_its_reason() -> None:
    token = CancelToken()
    assert not token.cancelled
    assert token.reason is None

    assert token.cancel("shutdown")
    assert not token.cancel("again")

    assert token.cancelled
    assert token.reason == "shutdown"


def test_a_callback_is_called_once_in_the_cancelling_thread() -> None:
    token = CancelToken()
    heard: list[int] = []
    token.add_callback(lambda: heard.append(threading.get_ident()))

    token.cancel()
    token.cancel()

    assert heard == [threading.get_ident()]


def test_a_callback_that_comes_too_late_is_called_at_once() -> None:
    token = CancelToken()
    token.cancel()
    heard: list[str] = []

    remove = token.add_callback(lambda: heard.append("late"))
    remove()

    assert heard == ["late"]


def test_a_removed_callback_is_not_called() -> None:
    token = CancelToken()
    heard: list[str] = []
    remove = token.add_callback(lambda: heard.append("removed"))
    token.add_callback(lambda: heard.append("kept"))

    remove()
    remove()
    token.cancel()

    assert heard == ["kept"]


def test_a_callback_that_fails_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    token = CancelToken()
    heard: list[str] = []

    def fails() -> None:
        raise RuntimeError("no")

    token.add_callback(fails)
    token.add_callback(lambda: heard.append("second"))
    with caplog.at_level(logging.ERROR, logger="fastproc"):
        token.cancel()

    assert heard == ["second"]
    assert "callback" in caplog.text


def test_children_are_cancelled_with_their_parent_but_not_the_other_way_round() -> None:
    top = CancelToken()
    left, right = CancelToken(parent=top), CancelToken(parent=top)
    leaf = CancelToken(parent=left)
    heard: list[str] = []
    leaf.add_callback(lambda: heard.append("leaf"))

    right.cancel("only me")
    assert not top.cancelled
    assert not leaf.cancelled

    top.cancel("all")

    assert leaf.cancelled
    assert leaf.reason == "all"
    assert right.reason == "only me"
    assert heard == ["leaf"]


def test_a_child_of_a_cancelled_token_is_born_cancelled() -> None:
    top = CancelToken()
    top.cancel("over")

    assert CancelToken(parent=top).reason == "over"


def test_a_deep_tree_is_cancelled_without_recursion() -> None:
    top = CancelToken()
    tokens = [top]
    for _ in range(5000):
        tokens.append(CancelToken(parent=tokens[-1]))

    top.cancel()

    assert tokens[-1].cancelled


def test_the_earliest_deadline_counts() -> None:
    top = CancelToken(timeout=1000)
    assert top.deadline is not None

    later, earlier = CancelToken(timeout=2000, parent=top), CancelToken(timeout=10, parent=top)

    assert later.deadline == top.deadline
    assert earlier.deadline is not None
    assert earlier.deadline < top.deadline
    assert CancelToken(parent=later).deadline == top.deadline
    assert CancelToken().deadline is None
    assert CancelToken(timeout=math.inf).deadline is None


def test_a_token_counts_as_cancelled_when_its_time_is_up() -> None:
    token = CancelToken(timeout=0)
    heard: list[str] = []
    token.add_callback(lambda: heard.append("explicit"))

    assert token.cancelled
    assert token.reason == "deadline"
    assert heard == []

    assert token.cancel("too late to be the reason")
    assert token.reason == "deadline"
    assert heard == ["explicit"]


def test_a_parent_does_not_keep_its_children_alive() -> None:
    top = CancelToken()
    child = CancelToken(parent=top)
    gone = weakref.ref(child)

    del child
    gc.collect()

    assert gone() is None
    top.cancel()


def test_a_callback_may_use_the_token() -> None:
    token = CancelToken()
    heard: list[str | None] = []

    def look() -> None:
        token.cancel("inner")
        token.add_callback(lambda: heard.append("nested"))
        heard.append(token.reason)

    token.add_callback(look)
    token.cancel("outer")

    assert heard == ["nested", "outer"]


def test_many_threads_cancel_once_and_lose_no_callback() -> None:
    for _ in range(50):
        top = CancelToken()
        heard: list[int] = []
        start = threading.Barrier(4)

        def add(top: CancelToken = top, heard: list[int] = heard, start: threading.Barrier = start) -> None:
            start.wait()
            for number in range(20):
                CancelToken(parent=top).add_callback(lambda: heard.append(-1))
                top.add_callback(functools.partial(heard.append, number))

        def cancel(top: CancelToken = top, start: threading.Barrier = start) -> None:
            start.wait()
            top.cancel()

        threads = [threading.Thread(target=target) for target in (add, add, cancel, cancel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(number for number in heard if number >= 0) == sorted([*range(20), *range(20)])


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("5", TypeError), (True, TypeError)]
)
def test_a_wrong_timeout_is_refused(timeout: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout"):
        CancelToken(timeout=timeout)  # type: ignore[arg-type]


def test_what_cannot_be_called_is_refused_when_it_is_said() -> None:
    token = CancelToken()
    with pytest.raises(TypeError, match="callback must be callable, not 5"):
        token.add_callback(5)  # type: ignore[arg-type]
    assert token.cancel()


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_pickled_or_copied(take: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="CancelToken cannot be pickled or copied"):
        take(CancelToken())


def test_a_time_beyond_all_floats_is_for_ever() -> None:
    assert CancelToken(timeout=10**400).deadline is None


def test_repr_tells_the_state() -> None:
    token = CancelToken(timeout=60)
    assert "s left" in repr(token)
    token.cancel("done")
    assert repr(token) == "<CancelToken cancelled: done>"
    assert repr(CancelToken()) == "<CancelToken>"
    assert time.monotonic() < (token.deadline or 0)
