"""Functions, files and folders stay small enough to be read in one go."""

import ast
from collections import Counter

from tests.architecture.product import ROOT, product_modules

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_FOLDER_MODULES = 25


def test_no_function_file_or_folder_is_too_large():
    modules = product_modules()
    too_large = []
    for path in modules:
        text = (ROOT / path).read_text()
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            too_large.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES:
                    place = f"{path}:{node.lineno} {node.name}"
                    too_large.append(f"{place}: {lines} lines, at most {MAX_FUNCTION_LINES}")
    for folder, count in Counter(path.parent for path in modules).items():
        if count > MAX_FOLDER_MODULES:
            too_large.append(f"{folder}: {count} modules, at most {MAX_FOLDER_MODULES}")
    assert not too_large, "\n".join(too_large)
