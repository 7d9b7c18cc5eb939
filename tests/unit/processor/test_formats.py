"""Task files of all sorts: what can be read is plain values, what cannot is refused with the reason, and in
time.
"""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given, settings, strategies as st

from fastproc.processor import formats
from fastproc.processor.formats import MAX_DEPTH, BadTask, YamlMissing, parse


def test_json_and_yaml_say_the_same() -> None:
    expected = {"id": "a", "args": ["echo", "ä"], "timeout": 5, "tags": [], "nested": {"x": None}}
    assert parse(
        b'{"id":"a","args":["echo","\\u00e4"],"timeout":5,"tags":[],"nested":{"x":null}}', yaml=False
    ) == (expected)
    text = "id: a\nargs: [echo, ä]\ntimeout: 5\ntags: []\nnested:\n  x: null\n"
    assert parse(text.encode(), yaml=True) == expected


def test_dates_in_yaml_become_text() -> None:
    fields = parse(b"created_at: 2025-01-31T12:00:00Z\nday: 2025-01-31\n", yaml=True)
    assert fields == {"created_at": "2025-01-31T12:00:00+00:00", "day": "2025-01-31"}


def test_a_few_aliases_are_welcome() -> None:
    assert parse(b"a: &x [1, 2]\nb: *x\nc:\n  <<: &d {e: 1}\n", yaml=True) == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"e": 1},
    }


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in b"bcdefghi"
)


@pytest.mark.parametrize("innermost", ['"x"', "1", "null", "[]"])
def test_what_is_nested_too_deep_is_refused_whatever_it_is(innermost: str) -> None:
    def nested(depth: int) -> bytes:
        return ('{"a":' + "[" * (depth - 1) + innermost + "]" * (depth - 1) + "}").encode()

    assert parse(nested(MAX_DEPTH), yaml=False)
    with pytest.raises(BadTask, match="nested deeper"):
        parse(nested(MAX_DEPTH + 1), yaml=False)


@pytest.mark.parametrize(
    ("content", "yaml", "why"),
    [
        (b"", False, "empty"),
        (b"  \n\t", True, "empty"),
        (b"{", False, "not JSON"),
        (b'{"a": 1}{', False, "not JSON"),
        (b"\x80\x81", False, "not UTF-8"),
        (b"\x00\x01\x02", True, "not YAML"),
        (b"[]", False, "holds a list"),
        (b"just words", True, "holds a str"),
        (b"42", True, "holds a int"),
        (b"a: [1, 2", True, "not YAML"),
        (b"a: *nobody", True, "stands for|for nothing"),
        (b"a: &a [*a]", True, "inside what it stands for"),
        (BOMB, True, "more than 100000 values"),
        (b"[" * 500_000, False, "nested deeper|not JSON"),
        (b"[" * 500_000, True, "nested deeper|maximum nesting depth"),
        (b"{a: " * 200_000, True, "nested deeper|maximum nesting depth"),
        (b'{"a":' * 200_000, False, "nested deeper"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, False, "nested deeper"),
        (b"- " * 300_000 + b"x", True, "nested deeper"),
        (b"x" * (formats.MAX_FILE_BYTES + 1), True, "larger"),
        (b"a: !!python/object/apply:os.system ['true']", True, "not YAML"),
        (b"a: !local x", True, "not YAML"),
        (b"a: .nan", True, "not finite"),
        (b'{"a": NaN}', False, "not finite"),
        (b"a: " + b"9" * 5000, True, "not YAML|exceeds"),
        (b"1: x", True, "not text"),
        (b"a: !!binary aGk=", True, "binary"),
        (b"--- {a: 1}\n--- {b: 2}\n", True, "not YAML"),
    ],
)
def test_what_is_no_task_is_refused_with_the_reason_and_at_once(content: bytes, yaml: bool, why: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadTask, match=why):
        parse(content, yaml=yaml)
    assert time.monotonic() - began < 10


@settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)), yaml=st.booleans())
def test_no_bytes_do_anything_but_be_read_or_refused(content: bytes, yaml: bool) -> None:
    try:
        fields = parse(content, yaml=yaml)
    except BadTask:
        return
    assert isinstance(fields, dict)


def test_every_torn_file_is_read_or_refused() -> None:
    """Any other exception than BadTask would end this."""
    whole = b"id: a\nargs:\n- echo\n- 'x: y'\nenv: {A: \"b\"}\nnotes: |\n  two\n  lines\n"
    for length in range(len(whole)):
        try:
            parse(whole[:length], yaml=True)
        except BadTask:
            continue


def test_without_pyyaml_json_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.setattr(formats, "_loaded", [])
    assert parse(b'{"a": 1}', yaml=False) == {"a": 1}
    with pytest.raises(YamlMissing, match=r"fastproc\[queue\]"):
        parse(b"a: 1", yaml=True)
