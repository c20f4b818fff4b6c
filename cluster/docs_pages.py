"""The pages of docs/ that code writes: ``python -m cluster.docs_pages``, or ``--check`` to change
nothing and fail where one differs.

PAGES -> text of each -> docs/*.md

To add one: a function without arguments that returns its text, and a line in PAGES.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.migration_page import migration_page
from cluster.recipes_page import recipes_page

ROOT = Path(__file__).resolve().parents[1]

PAGES: Mapping[str, Callable[[], str]] = {
    "docs/recipes.md": recipes_page,
    "docs/migration.md": migration_page,
}


def outdated(root: Path = ROOT) -> list[str]:
    """The pages below ``root`` that are not what the code writes today."""
    return [name for name, text in PAGES.items() if _read(root / name) != text()]


def write(root: Path = ROOT) -> list[str]:
    """Write the outdated pages; returns their names."""
    names = outdated(root)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(PAGES[name](), encoding="utf-8")
    return names


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 1 if ``--check`` found a page that differs."""
    parser = argparse.ArgumentParser(description="Write the pages of docs/ that code writes.")
    parser.add_argument("--check", action="store_true", help="only say which pages differ")
    check = parser.parse_args(arguments).check
    names = outdated() if check else write()
    word = "outdated, run `make docs`" if check else "wrote"
    sys.stdout.writelines(f"{word}: {name}\n" for name in names)
    return int(check and bool(names))


if __name__ == "__main__":
    sys.exit(main())
