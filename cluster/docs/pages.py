"""Writes the generated pages of docs/: ``python -m cluster.docs.pages``. ``--check`` changes
nothing and fails if a page differs.

PAGES -> text of each -> docs/*.md

To add one: a function from the page as it is to what it should be (most need not look at it), and
a line in PAGES.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.docs.metrics_page import metrics_page
from cluster.docs.migration_page import migration_page
from cluster.docs.recipes_page import recipes_page
from cluster.docs.resume_page import resume_page

ROOT = Path(__file__).resolve().parents[2]

PAGES: Mapping[str, Callable[[str], str]] = {
    "docs/recipes.md": lambda _: recipes_page(),
    "docs/migration.md": migration_page,
    "docs/metrics.md": lambda _: metrics_page(),
    "docs/resume.md": resume_page,
}


def outdated(root: Path = ROOT) -> dict[str, str]:
    """Pages below ``root`` that are outdated, with their new text."""
    pages = {name: _read(root / name) for name in PAGES}
    texts = {name: PAGES[name](page) for name, page in pages.items()}
    return {name: text for name, text in texts.items() if text != pages[name]}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: list[str] | None = None) -> int:
    """Write or check the pages. Exit status 1 if ``--check`` finds a page that differs."""
    parser = argparse.ArgumentParser(description="Write the pages of docs/ that code writes.")
    parser.add_argument("--check", action="store_true", help="only say which pages differ")
    check = parser.parse_args(arguments).check
    pages = outdated()
    for name, text in pages.items():
        if not check:
            (ROOT / name).write_text(text, encoding="utf-8")
        word = "differs from the code, run `make docs`" if check else "written"
        sys.stdout.write(f"{name}: {word}\n")
    return int(check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
