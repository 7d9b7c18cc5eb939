"""Option types and decorators that the commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .quantities import bound, seconds

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in older versions


class Reading(_ParamType):
    """A click type around a function that reads a text and raises ValueError."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _limit_in_time(text: str) -> float | None:
    return seconds(text) or None


TIME = Reading("time", seconds)
TIME_LIMIT = Reading("time", _limit_in_time)
BYTES = Reading("size", lambda text: bound(text, "bytes"))
CPU_TIME = Reading("time", lambda text: bound(text, "seconds"))
COUNT = Reading("count", bound)

_SHARED = (
    click.option("--timeout", type=TIME_LIMIT, help="Stop it after so long: 5, 250ms, 1h30m; 0: never."),
    click.option("--idle-timeout", type=TIME_LIMIT, help="Stop it when silent for so long."),
    click.option(
        "--grace",
        type=TIME,
        default="5s",
        show_default=True,
        help="From the polite signal to SIGKILL.",
    ),
    click.option("--memory", type=BYTES, help="Memory of it and its descendants in all, by cgroup."),
    click.option("--address-space", type=BYTES, help="Virtual memory of each process (setrlimit)."),
    click.option("--cpu-time", "cpu", type=CPU_TIME, help="CPU time of each process."),
    click.option("--file-size", type=BYTES, help="Largest file it may write."),
    click.option("--open-files", type=COUNT, help="Descriptors of each process."),
    click.option(
        "--containment",
        type=click.Choice(["auto", "session", "cgroup", "guard"]),
        default="auto",
        show_default=True,
        help="The set its descendants are kept in, and found by.",
    ),
)

LIMIT_NAMES = ("memory", "address_space", "cpu", "file_size", "open_files")


def shared_options(function: Decorated) -> Decorated:
    """The options about time, limits and containment."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


def chosen(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Of these options, those that were given."""
    return {name: values[name] for name in names if values.get(name) is not None}
