"""One way to the terminal: text of others may be in any message, and is made printable there."""

import ast

from tests.architecture.product import ROOT, product_files

WRITERS = {
    "cluster/commands/base.py",  # say: made printable
    "cluster/commands/import_data.py",  # made printable
    "cluster/commands/status.py",  # JSON, in ASCII
    "cluster/commands/reward.py",  # a recipe's lines, for a file
    "cluster/demo/evaluate.py",  # JSON, in ASCII
    "cluster/docs/pages.py",  # names of our own pages
    "reward/plugins/watchdog.py",  # writes nothing, only flushes
}
"""Modules that may use stdout and stderr; all else prints by ``console`` or ``say``."""
CONSOLES = {"cluster/driver/safe_console.py"}


def uses(tree: ast.AST, *names: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and f"{getattr(node.value, 'id', '')}.{node.attr}" in names
        for node in ast.walk(tree)
    )


def test_only_known_modules_write_to_the_terminal_themselves():
    writers = {
        path.as_posix()
        for path in product_files()
        if any(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("write", "writelines")
            and uses(node.func, "sys.stdout", "sys.stderr")
            or isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "print"
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
        )
    }
    assert not writers - WRITERS


def test_there_is_one_console_and_it_is_the_safe_one():
    makers = {
        path.as_posix()
        for path in product_files()
        if any(
            isinstance(node, ast.ImportFrom)
            and node.module == "rich.console"
            and any(name.name == "Console" for name in node.names)
            or isinstance(node, ast.ImportFrom | ast.Import)
            and any(name.name in ("rich.print", "rich.markup") for name in node.names)
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
        )
    }
    assert makers == CONSOLES
