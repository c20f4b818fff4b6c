"""One prompt, many responses: packed rows, their attention, its exactness check."""
