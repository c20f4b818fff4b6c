"""Nearest known name, for the end of an error message about an unknown one."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str], listed: str = "known") -> str:
    """``did you mean 'x'?``, whatever the case; where no name is near, all known ones:
    ``known: a, b``."""
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return (
        f"did you mean {folded[near[0]]!r}?" if near else f"{listed}: {', '.join(known) or 'none'}"
    )
