"""Renders the table of docs/resume.md on what a resume may change; the prose around it is written
by hand. Pure.

cluster/config/resume_rules.py -> rows between ``<!-- table rules -->`` and ``<!-- end -->``
"""

import re

from cluster.config.resume_rules import documented

_BLOCK = re.compile(r"<!-- table rules -->\n.*?<!-- end -->", re.DOTALL)


def resume_page(page: str) -> str:
    """The page with an up-to-date table."""
    rows = [f"| {settings} | {may} | {text} |" for settings, may, text in documented()]
    table = "\n".join(["| setting | may change | when, or why not |", "|---|---|---|", *rows])
    return _BLOCK.sub(lambda _: f"<!-- table rules -->\n\n{table}\n\n<!-- end -->", page)
