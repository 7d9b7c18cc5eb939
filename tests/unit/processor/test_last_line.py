"""The last line of a log, as people read it."""

from __future__ import annotations

import json

import pytest

from fastproc.processor.logs import last_line


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"", ""),
        (b"one\ntwo\n\n", "two"),
        (b"10%\r20%\r", "20%"),
        (b"\x1b[2Jx", "\\x1b[2Jx"),
        (b'{"type": "result", "result": "All done.\\nReally."}\n', "All done. Really."),
        (b'{"type": "assistant", "text": ""}\n', '{"type": "assistant", "text": ""}'),
        (b'{"type": "text", "text": "cut o', '{"type": "text", "text": "cut o'),
        (b'{"error": {"type": "x"}}\n', '{"error": {"type": "x"}}'),
        (b'{"error": "refused"}\n', "refused"),
        (b'{"text": "\\u001b[31mred"}\n', "\\x1b[31mred"),
        (b"[1, 2]\n", "[1, 2]"),
        (b"{}\n", "{}"),
        (b"{" * 100_000, "{" * 200),
    ],
)
def test_the_last_line_is_what_was_said_last(tail: bytes, words: str) -> None:
    assert last_line(tail) == words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"type": "text", "text": "I look at the parser."}], "I look at the parser."),
        ([{"type": "text", "text": "So."}, {"type": "tool_use", "name": "Edit", "input": {}}], "uses Edit"),
    ],
)
def test_a_coding_agent_is_heard_in_words(content: list[object], words: str) -> None:
    """The form of Claude Code's `--output-format stream-json`."""
    message = {"id": "msg_01", "role": "assistant", "model": "m" * 300, "content": content}
    line = json.dumps({"type": "assistant", "message": message}).encode()
    assert last_line(b"before\n" + line + b"\n") == words
