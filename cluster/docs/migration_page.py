"""Renders the tables of docs/migration.md; the prose around them is written by hand. Pure.

the page as it is -> the same, with each ``<!-- table NAME -->`` ... ``<!-- end -->`` filled anew
"""

import re
from collections.abc import Callable, Sequence

from cluster.config.migration.moved import Moved
from cluster.config.migration.openrlhf import OPENRLHF
from cluster.config.migration.qwen_video import QWEN
from cluster.config.migration.trl import TRL
from cluster.config.migration.verl import VERL

_BLOCK = re.compile(r"<!-- table (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def migration_page(page: str) -> str:
    """The page with up-to-date tables. Raises KeyError for an unknown table."""
    return _BLOCK.sub(lambda match: _block(match[1]), page)


def _block(name: str) -> str:
    return f"<!-- table {name} -->\n\n{_TABLES[name]()}\n<!-- end -->"


def _keys(rows: Sequence[Moved]) -> str:
    lines = [
        f"| `{row.theirs}` | {f'`{row.ours}`' if row.ours else '-'} | {row.note} |" for row in rows
    ]
    return "\n".join(["| there | here | |", "|---|---|---|", *lines, ""])


_TABLES: dict[str, Callable[[], str]] = {
    "verl": lambda: _keys(VERL),
    "trl": lambda: _keys(TRL),
    "openrlhf": lambda: _keys(OPENRLHF),
    "qwen": lambda: _keys(QWEN),
}
