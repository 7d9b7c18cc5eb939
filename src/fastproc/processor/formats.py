"""From the bytes of a task file to a mapping, whatever the bytes are: too large, too deep, torn, or a bomb.

JSON is read by the standard library, YAML by PyYAML (extra `queue`), which is imported when the first YAML
file comes. Both give plain str, int, float, bool, None, list and dict. What cannot be accepted is a BadTask
that says why.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

MAX_FILE_BYTES = 1 << 20
"""The largest task file that is read at all."""
MAX_DEPTH = 32
"""How deep lists and mappings may be nested."""
MAX_NODES = 100_000
"""How many values a file may hold, each alias counted as all that it stands for."""


class BadTask(ValueError):
    """This is no task; the message says why."""


class YamlMissing(ImportError):
    """A YAML file cannot be read because PyYAML is not installed."""


def parse(content: bytes, *, yaml: bool) -> dict[str, Any]:
    """The mapping that a task file holds.

    Raises:
        BadTask: it holds none, or one beyond the limits of this module.
        YamlMissing: it is YAML, and PyYAML is not there.
    """
    if len(content) > MAX_FILE_BYTES:
        raise BadTask(f"larger than {MAX_FILE_BYTES} bytes")
    if not content.strip():
        raise BadTask("empty")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BadTask(f"not UTF-8 at byte {error.start}") from None
    fields = _parse_yaml(text) if yaml else _parse_json(text)
    if not isinstance(fields, dict):
        raise BadTask(f"holds a {type(fields).__name__}, not a mapping of fields")
    _check(fields, 0)
    return fields


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise BadTask(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise BadTask(f"not JSON: {error}") from None


def _check(value: object, depth: int) -> None:
    """Refuse what JSON and YAML can say and a task cannot mean."""
    if depth > MAX_DEPTH:
        raise BadTask(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BadTask(f"has a field whose name is not text: {key!r:.80}")
            if type(item) is not str or depth == MAX_DEPTH:
                _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            if type(item) is not str or depth == MAX_DEPTH:
                _check(item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadTask(f"has a number that is not finite: {value}")


# ---- YAML ----


def _parse_yaml(text: str) -> object:
    yaml = _yaml()
    # Events come one by one from the scanner: what is too deep or too much is refused before it is built.
    try:
        _measure(yaml.parse(text, Loader=yaml.base))
        return _plain(yaml.load(text, Loader=yaml.loader))
    except yaml.error as error:
        raise BadTask(f"not YAML: {_one_line(error)}") from None
    except (ValueError, RecursionError, TypeError, OverflowError) as error:
        if isinstance(error, BadTask):
            raise
        raise BadTask(f"not YAML that can be read: {_one_line(error)}") from None


def _measure(events: Any) -> None:
    """Count nodes, each alias as what it stands for, and depth; refuse what goes beyond."""
    sizes: dict[str, int | None] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in events:
        name = type(event).__name__
        anchor = getattr(event, "anchor", None)
        if name == "AliasEvent":
            size = sizes.get(str(anchor))
            if size is None:
                raise BadTask(f"alias *{anchor:.40} stands inside what it stands for, or for nothing")
            total += size
        elif name == "ScalarEvent":
            total += 1
            if anchor is not None:
                sizes[anchor] = 1
        elif name in ("SequenceStartEvent", "MappingStartEvent"):
            open_nodes.append((anchor, total))
            total += 1
            if anchor is not None:
                sizes[anchor] = None
            if len(open_nodes) > MAX_DEPTH:
                raise BadTask(f"nested deeper than {MAX_DEPTH}")
        elif name in ("SequenceEndEvent", "MappingEndEvent"):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        if total > MAX_NODES:
            raise BadTask(f"holds more than {MAX_NODES} values, aliases counted as what they stand for")


def _plain(value: Any) -> Any:
    """Dates as text, sets and tuples as lists: what JSON can say as well."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()
    if isinstance(value, bytes):
        raise BadTask("has binary data in it")
    return value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


class _Yaml:
    """PyYAML, with libyaml where it was built with it: thirty times as fast."""

    def __init__(self) -> None:
        import yaml

        self.parse = yaml.parse
        self.load = yaml.load
        self.error = yaml.YAMLError
        self.loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.base = self.loader


_loaded: list[_Yaml] = []


def _yaml() -> Any:
    if not _loaded:
        try:
            _loaded.append(_Yaml())
        except ImportError:
            raise YamlMissing(
                "PyYAML is not installed, and YAML tasks wait: pip install 'fastproc[queue]'"
            ) from None
    return _loaded[0]
