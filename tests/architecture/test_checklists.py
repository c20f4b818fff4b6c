"""docs/checklists.md names tests that exist."""

import ast
import re

from tests.architecture.product import ROOT

PAGE = ROOT / "docs/checklists.md"
_NAMED = re.compile(r"tests/[\w/]+?\.py(?:::\w+)?|tests/[\w/]+/(?=`)")


def test_every_test_that_the_check_lists_name_is_there():
    named = _NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) > 10, "the page names its proofs as tests/PATH/test_NAME.py::test_..."
    assert [name for name in dict.fromkeys(named) if not _exists(name)] == []


def _exists(name: str) -> bool:
    file, _, function = name.partition("::")
    path = ROOT / file
    if not function or not path.is_file():
        return path.exists()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(node, defined) and node.name == function for node in tree.body)
