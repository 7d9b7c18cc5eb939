"""The line cutter against the simplest model there is: all bytes at once."""

from __future__ import annotations

from hypothesis import given, strategies as st

from fastproc._engine.lines import LineCutter


def cut(
    pieces: list[bytes], *, encoding: str = "utf-8", errors: str = "replace", max_line: int = 1 << 20
) -> list[str]:
    """All lines of a stream that comes in these pieces."""
    cutter = LineCutter(encoding, errors, max_line)
    lines = [line for piece in pieces for line in cutter.feed(piece)]
    return lines + cutter.finish()


@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    model = whole.split(b"\n")
    if model[-1] == b"":
        model.pop()

    assert cut(pieces) == [line.decode("utf-8", "replace") for line in model]
    assert cut([whole]) == cut([bytes([byte]) for byte in whole])


@given(st.lists(st.binary(max_size=20)), st.integers(1, 9))
def test_long_lines_come_in_pieces_and_nothing_is_lost(pieces: list[bytes], max_line: int) -> None:
    whole = b"".join(pieces)

    lines = cut(pieces, encoding="latin-1", max_line=max_line)

    assert all(len(line) <= max_line for line in lines)
    assert "".join(lines).encode("latin-1") == whole.replace(b"\n", b"")
    assert lines == cut([whole], encoding="latin-1", max_line=max_line)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), min_size=1),
    st.data(),
)
def test_text_comes_out_as_it_went_in(lines: list[str], data: st.DataObject) -> None:
    whole = "".join(f"{line}\n" for line in lines).encode()
    at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[start:end] for start, end in zip([0, *at], [*at, len(whole)], strict=True)]

    assert cut(pieces, errors="strict") == lines
