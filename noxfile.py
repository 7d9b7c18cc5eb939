"""The tests on every supported Python: `nox`, or `nox -s tests-3.13`. What is not installed is skipped."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Install the package as a user would, not editable, and run what `make test` runs of pytest."""
    session.install(".[cli,test]")
    session.run("pytest", *session.posargs)


@nox.session(python=["3.11", "3.12", "3.13"], name="libraries", default=False)
def libraries(session: nox.Session) -> None:
    """The tests of libraries from PyPI, with the drop-in for subprocess installed."""
    session.install(".[cli,test]")
    session.run("pytest", "-m", "slow", "tests/compat", *session.posargs)
