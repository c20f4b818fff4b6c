"""One way to the terminal: text of others may be in any message, and is made printable there."""

import ast
from collections.abc import Iterator

from tests.architecture.product import ROOT, product_files

WRITERS = {
    "cluster/commands/archive.py",  # JSON, in ASCII
    "cluster/commands/base.py",  # say: made printable
    "cluster/commands/fleet/deploy.py",  # a file for another program, asked for there
    "cluster/commands/fleet/workers.py",  # JSON, in ASCII
    "cluster/commands/import_data.py",  # made printable
    "cluster/commands/prompts.py",  # made printable
    "cluster/commands/serve.py",  # a new token, in ASCII
    "cluster/commands/status.py",  # JSON, in ASCII
    "cluster/commands/reward.py",  # a recipe's lines, for a file
    "cluster/demo/evaluate.py",  # JSON, in ASCII
    "cluster/docs/pages.py",  # names of our own pages
}
"""Modules that may use stdout and stderr; all else prints by ``console`` or ``say``."""
CONSOLES = {"cluster/driver/safe_console.py"}


def test_only_known_modules_write_to_the_terminal_themselves():
    writers = {path for path, tree in trees() if any(map(writes, ast.walk(tree)))}
    assert not writers - WRITERS


def test_there_is_one_console_and_it_is_the_safe_one():
    assert {path for path, tree in trees() if any(map(makes_console, ast.walk(tree)))} == CONSOLES


def trees() -> Iterator[tuple[str, ast.AST]]:
    for path in product_files():
        yield path.as_posix(), ast.parse((ROOT / path).read_text())


def writes(node: ast.AST) -> bool:
    """Whether a node is a call of print, or of a method of stdout or stderr."""
    if not isinstance(node, ast.Call):
        return False
    words = ast.unparse(node.func)
    return words == "print" or words.startswith(("sys.stdout.write", "sys.stderr.write"))


def makes_console(node: ast.AST) -> bool:
    """Whether a node imports rich's own console, or its markup."""
    if not isinstance(node, ast.ImportFrom):
        return False
    names = {name.name for name in node.names}
    return node.module == "rich.markup" or (node.module == "rich.console" and "Console" in names)
