"""First lines name the thing by a noun that a reader would search for, values say what they hold
(CONTRIBUTING.md)."""

import ast
import re
from collections.abc import Iterator

from tests.architecture.product import ROOT, product_files

RELATIVE = re.compile(r"(What|Which|Whose|Where|When|How|Who|Of)\b")
RIDDLE = re.compile(r"\b(what of the|of those that)\b", re.IGNORECASE)
POINTER = re.compile(r"See \S+\Z")
VAGUE = {"found", "said", "told", "it"}


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions and methods, with their names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            yield f"{owner}{node.name}", node


def names(function: ast.AST) -> Iterator[str]:
    """Names that a function gives to its parameters and values."""
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_no_module_begins_with_a_relative_clause():
    riddles = []
    for path in product_files():
        text = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
        first = text.partition("\n")[0]
        if RELATIVE.match(first) or RIDDLE.search(first):
            riddles.append(f"{path}: {first}")
    assert not riddles, "\n".join(riddles)


def test_no_public_function_only_points_elsewhere():
    pointers = []
    for path in product_files():
        for name, node in functions(ast.parse((ROOT / path).read_text())):
            text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
            if POINTER.match(text.strip().rstrip(".")):
                pointers.append(f"{path} {name}: {text}")
    assert not pointers, "\n".join(pointers)


def test_no_value_is_named_by_a_word_that_says_nothing():
    vague = []
    for path in product_files():
        for function in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                vague += [
                    f"{path} {function.name}: {name}" for name in VAGUE & set(names(function))
                ]
    assert not vague, "\n".join(vague)
