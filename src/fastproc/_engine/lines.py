"""Cutting a stream of bytes into lines of text. Pure."""

from __future__ import annotations

import codecs


class LineCutter:
    """Takes bytes in pieces of any length, and gives lines, decoded, without their newline.

    Bytes are cut before they are decoded, so a character that is split between two pieces is whole again, and
    what is not valid in the encoding is treated as `errors` says. A carriage return is left in place.
    """

    __slots__ = ("_encoding", "_errors", "_max_line", "_size", "_start")

    def __init__(self, encoding: str, errors: str, max_line: int) -> None:
        codecs.lookup(encoding)
        codecs.lookup_error(errors)
        if max_line < 1:
            raise ValueError(f"max_line must be 1 or more bytes, not {max_line}")
        self._encoding = encoding
        self._errors = errors
        self._max_line = max_line
        # The pieces of a line that is not ended yet, and their length.
        self._start: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[str]:
        """The lines that `piece` completes."""
        *ended, rest = piece.split(b"\n")
        lines: list[str] = []
        for line in ended:
            self._add(line, lines)
            self._cut(lines)
        self._add(rest, lines)
        return lines

    def finish(self) -> list[str]:
        """The last line, if it has no newline."""
        lines: list[str] = []
        if self._size:
            self._cut(lines)
        return lines

    def _add(self, piece: bytes, lines: list[str]) -> None:
        while self._size + len(piece) > self._max_line:
            room = self._max_line - self._size
            self._start.append(piece[:room])
            piece = piece[room:]
            self._cut(lines)
        self._start.append(piece)
        self._size += len(piece)

    def _cut(self, lines: list[str]) -> None:
        lines.append(b"".join(self._start).decode(self._encoding, self._errors))
        self._start.clear()
        self._size = 0
