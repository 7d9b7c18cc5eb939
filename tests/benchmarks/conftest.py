"""The modules of benchmarks/ are no package: who runs one has that directory in the path, and so do we."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"

# A source distribution has no benchmarks.
collect_ignore_glob = [] if BENCHMARKS.is_dir() else ["test_*.py"]

if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))


@pytest.fixture(autouse=True, scope="session")
def _fonts() -> None:
    """Matplotlib keeps each font that it has drawn with open, so it draws before descriptors are counted."""
    import plots
    from findings import Curve, Picture

    try:
        plots.svg(
            [Picture(slug="first", title="a", x="b", y="c", curves=[Curve(name="d", x=[1, 2], y=[1, 2])])]
        )
    except ImportError:
        pass  # the extra `bench` is not installed
