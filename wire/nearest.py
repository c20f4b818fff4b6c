"""What may have been meant by a name that there is not: the end of an error message."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str], listed: str = "known") -> str:
    """``did you mean 'x'?``; where none is near, all there are: ``known: a, b``."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"{listed}: {', '.join(known) or 'none'}"
