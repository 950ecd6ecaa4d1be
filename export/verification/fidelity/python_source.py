"""What a running line of Python does with a value, read from its source."""

from __future__ import annotations

import ast
import itertools
import linecache
from collections.abc import Sequence
from functools import cache
from types import FrameType

REPORTS = frozenset({"print", "warn", "debug", "info", "warning", "error", "critical", "exception", "log"})
"""Functions and methods that only tell somebody."""

TRIES = (ast.Try, ast.TryStar)


def is_check(frames: Sequence[FrameType]) -> bool:
    """Whether what the innermost line computes only decides whether something is raised or reported.

    It does in an ``assert``, in the test of an ``if`` that only raises or warns, and in a function that returns it to
    such a line.

    Args:
        frames: The innermost first.
    """
    paths = [_path(frame) for frame in frames]
    for path in paths:
        statement = next((node for node in reversed(path) if isinstance(node, ast.stmt)), None)
        if statement is None or any(isinstance(node, ast.NamedExpr) for node in ast.walk(statement)):
            return False
        if isinstance(statement, ast.Return):
            continue
        inside = path[path.index(statement) + 1 :]
        return _checks(statement, inside) and not any(map(_caught, paths))
    return False


def _checks(statement: ast.stmt, inside: list[ast.AST]) -> bool:
    """Whether a statement uses the value of an expression inside of it for a check only."""
    if isinstance(statement, ast.If):
        raises = any(branch and isinstance(branch[-1], ast.Raise) for branch in (statement.body, statement.orelse))
        reports = all(map(_reports, statement.body + statement.orelse))
        return (raises or reports) and (not inside or inside[0] is statement.test)
    return isinstance(statement, ast.Assert | ast.Raise) or _reports(statement)


def _reports(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom):
        return True
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    called = statement.value.func
    return getattr(called, "id", getattr(called, "attr", "")) in REPORTS


def _caught(path: list[ast.AST]) -> bool:
    """Whether what is raised here is handled in the same function: then it may be a branch."""
    return any(
        isinstance(node, TRIES) and bool(node.handlers) and inner in node.body
        for node, inner in itertools.pairwise(path)
    )


def _path(frame: FrameType) -> list[ast.AST]:
    """Return the nodes around what a frame is computing, from the module inwards; empty without source."""
    positions = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None,) * 4)
    line, end_line, column, end_column = positions
    if line is None or end_line is None or column is None or end_column is None:
        return []
    place = (line, column), (end_line, end_column)
    node: ast.AST | None = _tree(frame.f_code.co_filename)
    path: list[ast.AST] = []
    while node is not None:
        path.append(node)
        node = next((child for child in ast.iter_child_nodes(node) if _holds(child, *place)), None)
    return path


def _holds(node: ast.AST, start: tuple[int, int], end: tuple[int, int]) -> bool:
    if not hasattr(node, "lineno"):
        return any(_holds(child, start, end) for child in ast.iter_child_nodes(node))
    assert isinstance(node, ast.stmt | ast.expr | ast.excepthandler | ast.arg | ast.keyword | ast.alias | ast.pattern)
    stop = node.end_lineno or node.lineno, node.end_col_offset or 0
    return (node.lineno, node.col_offset) <= start and end <= stop


@cache
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return None
