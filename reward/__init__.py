"""Judge traces: built-in rewards, isolated user rewards, the scorer, its figures."""
