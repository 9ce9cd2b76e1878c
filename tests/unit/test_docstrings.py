"""Docstrings open with a verb or a noun: the reader learns in the first word what to expect."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("benchmarks", "callback", "client", "command", "gateway", "journal", "service")
ROOMS += ("examples", "simulator", "storage", "tests", "tools")
QUESTION_WORDS = {"How", "If", "That", "What", "When", "Where", "Whether", "Which", "Who", "Why"}


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_opens_with_a_question_word(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for text in docstrings(ast.parse(path.read_text()))
    ]

    assert found
    assert [text for text in found if text.split(": ", 1)[1].split(" ")[0] in QUESTION_WORDS] == []


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Yield the first lines of all docstrings, those of constants included."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if text.strip():
                    yield text.strip().splitlines()[0]
