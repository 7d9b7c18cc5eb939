"""A tree is drawn from one look; only the test process itself is looked at."""

from __future__ import annotations

import dataclasses
import os

import pytest

from fastproc.tree import GONE, Family, ProcessTree, build_forest, build_tree


def node(pid: int, *children: ProcessTree, name: str = "sh", state: str = "sleeping") -> ProcessTree:
    return ProcessTree(
        pid=pid, name=name, state=state, cpu_seconds=0.5, rss=3 * 1024 * 1024, children=children
    )


def test_a_tree_is_drawn_like_pstree() -> None:
    tree = node(1, node(2, node(3), node(4)), node(5, node(6, name="sleep")), node(7))

    assert str(tree) == (
        "sh(1) sleeping, 0.50 s CPU, 3.0 MiB\n"
        "├─sh(2) sleeping, 0.50 s CPU, 3.0 MiB\n"
        "│ ├─sh(3) sleeping, 0.50 s CPU, 3.0 MiB\n"
        "│ └─sh(4) sleeping, 0.50 s CPU, 3.0 MiB\n"
        "├─sh(5) sleeping, 0.50 s CPU, 3.0 MiB\n"
        "│ └─sleep(6) sleeping, 0.50 s CPU, 3.0 MiB\n"
        "└─sh(7) sleeping, 0.50 s CPU, 3.0 MiB"
    )
    assert [member.pid for member in tree.walk()] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("rss", "words"), [(0, "0 KiB"), (2048, "2 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**30, "3.0 GiB")]
)
def test_sizes_are_drawn_in_a_fitting_unit(rss: int, words: str) -> None:
    assert str(dataclasses.replace(node(1), rss=rss)).endswith(words)


def test_a_fork_chain_deeper_than_the_stack_is_built_and_drawn() -> None:
    depth = 5000
    family = Family(
        roots=frozenset({1}),
        members={pid: node(pid) for pid in range(1, depth + 1)},
        children={pid: [pid + 1] for pid in range(1, depth)},
    )

    tree = family.tree(1)

    assert tree is not None
    assert len(str(tree).splitlines()) == depth
    assert len(list(tree.walk())) == depth


def test_children_of_a_vanished_member_move_up() -> None:
    family = Family(
        roots=frozenset({1}), members={1: node(1), 3: node(3), 4: node(4)}, children={1: [2, 4], 2: [3]}
    )

    tree = family.tree(1)

    assert tree is not None
    assert [child.pid for child in tree.children] == [3, 4]


def test_a_vanished_root_leaves_what_is_below_it() -> None:
    family = Family(roots=frozenset({1}), members={2: node(2), 3: node(3)}, children={1: [2], 2: [3]})

    assert family.tree(1) is None
    (left,) = family.trees_below(1)
    assert [member.pid for member in left.walk()] == [2, 3]


def test_a_circle_of_reused_process_ids_ends() -> None:
    family = Family(roots=frozenset({1}), members={1: node(1), 2: node(2)}, children={1: [2], 2: [1, 2]})

    tree = family.tree(1)

    assert tree is not None
    assert [member.pid for member in tree.walk()] == [1, 2]


def test_this_process_is_in_its_own_tree() -> None:
    tree = build_tree(os.getpid())

    assert tree.pid == os.getpid()
    assert tree.state in ("running", "sleeping")
    assert tree.rss > 2**20
    assert tree.cpu_seconds > 0
    assert tree.created > 0
    assert str(tree).startswith(f"{tree.name}({os.getpid()})")


def test_a_process_that_has_gone_is_drawn_as_gone() -> None:
    tree = build_tree(2**22 + 1)  # above the largest pid_max

    assert (tree.state, tree.children) == (GONE, ())
    assert str(tree) == f"({2**22 + 1}) gone"


def test_a_forest_hangs_below_this_process() -> None:
    forest = build_forest([2**22 + 1])

    assert forest.pid == os.getpid()
    assert forest.children == ()
