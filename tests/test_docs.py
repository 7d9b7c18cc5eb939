"""The documents: their examples run, their links lead somewhere, and what they say of the tree is true."""

from __future__ import annotations

import builtins
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastproc
from fastproc import errors

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"

SECONDS = 50
"""No page takes more than a few; what hangs shall not hold up the others."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, without the fences."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def with_blocks(language: str) -> list[object]:
    """The pages that have examples in that language, each under its own name."""
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page, language)]


def links(page: Path) -> Iterator[str]:
    """The targets of links to files, without those to other sites."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page may say behind its #."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_examples_run(page: Path, tmp_path: Path) -> None:
    """All examples of a page are one program, in the order of the page; warnings are errors."""
    program = tmp_path / "examples.py"
    program.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    directory = tmp_path / "here"
    directory.mkdir()

    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["run-an-agent-queue.md", "recover-after-a-crash.md"])
def test_shell_examples_of_the_queue_run(name: str, tmp_path: Path) -> None:
    """All of a page are one script, in the order of the page; no command of it may fail."""
    pytest.importorskip("click")
    pytest.importorskip("rich")
    script = "\n".join(blocks(ROOT / "docs" / "howto" / name, "sh"))
    # What is not installed as a command is run as a module; a job in the background has to be the one killed.
    command = tmp_path / "bin" / "fastproc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastproc "$@"\n')
    command.chmod(0o755)
    directory = tmp_path / "here"
    directory.mkdir()

    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=directory,
        env=os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", with_blocks("c"))
def test_c_examples_compile_and_run(page: Path, tmp_path: Path) -> None:
    """Each block is a program of its own, built against what is installed with the package."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    archive = Path(fastproc.get_library_dir()) / "libfastproc.a"
    for number, text in enumerate(blocks(page, "c")):
        source = tmp_path / f"example{number}.c"
        source.write_text(text, encoding="utf-8")
        program = source.with_suffix("")
        build = [compiler, "-std=gnu17", "-Wall", "-Wextra", "-Werror", f"-I{fastproc.get_include()}"]
        subprocess.run([*build, "-o", program, source, archive, "-pthread"], check=True)

        done = subprocess.run([program], capture_output=True, text=True, timeout=SECONDS, check=False)

        assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_begins_with_commands_that_make_knows() -> None:
    """Whoever has cloned the repository types these two first."""
    first = re.findall(r"^    make ([\w-]+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    assert first == ["demo", "test"]
    assert set(first) <= set(targets)


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_make_targets_on_all_pages_exist(page: Path) -> None:
    """`make something` in running text, of the top directory; others are written with -C."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"`make ([a-z][\w-]*)", page.read_text(encoding="utf-8"))

    assert [name for name in named if name not in targets] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Relative links, as they are followed in a checkout."""
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("directory", ["howto", "adr", "explanation", "reference"])
def test_every_page_is_listed(directory: str) -> None:
    """In the index of its directory, or of all documents."""
    pages = sorted((ROOT / "docs" / directory).glob("*.md"))
    index = ROOT / "docs" / directory / "README.md"
    if not index.exists():
        index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link).resolve() for link in links(index)}

    assert [page.name for page in pages if page not in listed and page.name != "README.md"] == []


def test_the_map_names_every_source_file_and_no_other() -> None:
    """Those of C by their place, those of Python as modules or by their package."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    map_, _, _ = text.partition("\n## Always true")
    named = set(re.findall(r"[\w/]+\.(?:c|h|py)\b", map_))
    names = {Path(name).name for name in named}
    package = ROOT / "src" / "fastproc"
    sources = [*(ROOT / "csrc" / "src").glob("*.[ch]"), *(ROOT / "csrc" / "include").glob("*.h")]
    sources += (package / "_native").glob("*.[ch]")
    modules = [path for path in package.rglob("*.py") if "cli" not in path.relative_to(package).parts]
    files = {path.name for path in [*sources, *modules] if path.name != "__init__.py"}

    assert sorted(files - names) == []
    assert sorted(names - files) == []


def test_the_list_of_tests_in_c_names_every_program_and_no_other() -> None:
    """In its table; headers stand in the paragraph below."""
    directory = ROOT / "csrc" / "tests"
    text = (directory / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`(?:test|fault)_.*?) \|", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    headers = set(re.findall(r"`(\w+\.h)`", text))

    assert named == {path.stem for path in directory.glob("*.c")}
    assert headers == {path.name for path in directory.glob("*.h")}


def test_one_place_reaps_one_signals_one_creates() -> None:
    """Besides the exceptions that ARCHITECTURE.md gives a reason for."""
    places = {
        r"fp_outcome_collect": {"outcome.c", "reap.c", "solo.c", "spawn_report.c"},
        r"sys_waitid": {"outcome.c", "spawn_shared.c", "probe.c"},
        r"sys_kill|sys_pidfd_send_signal": {
            "contain.c",
            "spawn_fork.c",
            "spawn_report.c",
            "births.c",
            "cgroup.c",
            "probe.c",
            "solo.c",
            "kin.c",
        },
        r"sys_fork|sys_clone_to_child|sys_clone3_to_child": {"spawn_fork.c", "spawn_shared.c", "probe.c"},
    }
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "csrc" / "src").glob("*.c")}

    for calls, allowed in places.items():
        found = {name for name, text in sources.items() if re.search(rf"\b(?:{calls})\(", text)}
        assert found == allowed, calls
    assert not [name for name, text in sources.items() if re.search(r"\b(?:waitpid|wait4)\(", text)]


# What internal.h says of calls that go up its list; references apart, which go everywhere.
CALLS_UPWARD = {
    ("turn.c", "batch.c", "fp_supervisor_batch_done"),
    ("nursery.c", "batch.c", "fp_batch_started"),
    ("start.c", "nursery.c", "fp_nursery_see_off"),
    ("proc.c", "batch.c", "fp_batch_is_copy"),
    ("proc.c", "batch.c", "fp_batch_lock"),
    ("places.c", "batch.c", "fp_batch_queued"),
    ("mailbox.c", "ask.c", "fp_proc_status"),
    ("mailbox.c", "ask.c", "fp_proc_failure"),
    ("mailbox.c", "proc.c", "fp_proc_free"),
    ("fork.c", "slots.c", "fp_slots_close"),
    ("fork.c", "cradle.c", "fp_cradle_close"),
    ("probe.c", "cgroup.c", "fp_cgroup_available"),
    ("probe.c", "cgroup.c", "fp_cgroup_dir"),
    ("probe.c", "child.c", "fp_child_try"),
}


def test_calls_in_c_go_down_the_list_of_files() -> None:
    """That of internal.h, which names every file that has a place in it, and the exceptions."""
    directory = ROOT / "csrc" / "src"
    order = re.findall(
        r"^ \*     (\w+\.c) ", (directory / "internal.h").read_text(encoding="utf-8"), re.MULTILINE
    )
    code = {
        name: re.sub(r"/\*.*?\*/", "", (directory / name).read_text(encoding="utf-8"), flags=re.DOTALL)
        for name in order
    }
    home = {
        function: name
        for name, text in code.items()
        for function in re.findall(r"^\w[^\n=;(]*?\b(fp_\w+)\([^;{]*\) \{$", text, re.MULTILINE)
    }
    upward = {
        (name, home[function], function)
        for name, text in code.items()
        for function in re.findall(r"\bfp_\w+", text)
        if function in home and order.index(home[function]) < order.index(name)
    }

    assert {call for call in upward if not call[2].endswith(("_ref", "_unref"))} == CALLS_UPWARD


def test_what_shows_the_invariants_exists() -> None:
    """The column "shown by" names tests and targets that are there."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \|.*\| (.*) \|$", text, re.MULTILINE)
    shown = [name for row in rows for name in re.findall(r"`([\w/]+\.(?:py|c))(?:::(\w+))?`", row)]

    assert shown
    for file, test in shown:
        assert (ROOT / file).exists(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_the_tree_of_exceptions_is_that_of_the_code() -> None:
    """As it is drawn in docs/reference/python.md: each class with the standard one beside it."""
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^ {8,12}(\w+)\((\w+)\)", text, re.MULTILINE)
    real = {
        name: each
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.FastprocError) and name != "FastprocError"
    }

    assert {name for name, _ in drawn} == set(real)
    for name, beside in drawn:
        assert issubclass(real[name], getattr(builtins, beside)), name


def test_the_capabilities_in_the_documents_are_those_of_the_library() -> None:
    """In the table of what is lost, and in the list of what can be hidden."""
    known = {name for name, there in fastproc.capabilities().items() if isinstance(there, bool)}
    fallbacks = (ROOT / "docs" / "explanation" / "fallbacks.md").read_text(encoding="utf-8")
    environment = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    hidden = next(line for line in environment.splitlines() if line.startswith("| `FASTPROC_DISABLE`"))

    assert set(re.findall(r"^\| `(\w+)`", fallbacks, re.MULTILINE)) == known
    assert known <= set(re.findall(r"`(\w+)`", hidden))


def test_the_index_of_python_names_what_the_package_exports() -> None:
    """Exceptions have a tree of their own, the version needs no words."""
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    exported = {name for name in fastproc.__all__ if not name.startswith("_")}

    assert sorted(name for name in exported if not re.search(rf"\b{name}\b", text)) == []


def test_the_table_of_functions_names_what_the_header_declares() -> None:
    """A name that begins with _ has the first words of the one at the beginning of its row."""
    header = (ROOT / "csrc" / "include" / "fastproc.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^FP_API [^(]*?(fp_\w+)\(", header, re.MULTILINE))
    page = (ROOT / "docs" / "reference" / "c.md").read_text(encoding="utf-8")
    named = set()
    for row in re.findall(r"^\| (`fp_.*?) \|", page, re.MULTILINE):
        stem = ""
        for name in re.findall(r"`(\w+)`", row):
            if name.startswith("fp_"):
                stem = "_".join(name.split("_")[:2])
            named.add(name if name.startswith("fp_") else stem + name)

    assert sorted(declared - named) == []
    assert sorted(named - declared) == []


def test_every_row_of_the_table_of_faults_says_its_fault() -> None:
    """Letter and number are names for it, and mean nothing by themselves."""
    text = (ROOT / "tests" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z]\d+.*) \|$", text, re.MULTILINE)
    split = [re.split(r" ?(?<!\\)\| ?", row) for row in rows]

    assert rows
    assert [cells[0] for cells in split if len(cells) != 4 or not cells[1]] == []


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    """A row that names a test which is gone would promise what nobody checks."""
    missing = []
    for line in (ROOT / "tests" / "faults.md").read_text(encoding="utf-8").splitlines():
        file = ""
        for match in re.finditer(r"(test_\w+\.py)|::(test_\w+)", line):
            if match[1]:
                file = match[1]
                continue
            sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(file)]
            if not any(f"def {match[2]}(" in source for source in sources):
                missing.append(f"{file}::{match[2]}")
    assert missing == []
