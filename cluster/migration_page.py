"""The tables of docs/migration.md; its prose is written by hand around them. Pure.

the page as it is -> the same, with each ``<!-- table NAME -->`` ... ``<!-- end -->`` filled anew
"""

import re
from collections.abc import Callable, Sequence

from cluster.migration import OPENRLHF, QWEN, TRL, VERL, Moved

_BLOCK = re.compile(r"<!-- table (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def migration_page(page: str) -> str:
    """The page with today's tables. Raises KeyError for a table that is not there."""
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
