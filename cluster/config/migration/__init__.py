"""Settings of other systems as our recipe keys: a table each, and the hint for an unknown key."""
