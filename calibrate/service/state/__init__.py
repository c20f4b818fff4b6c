"""State of the service: one SQLite file, and what is kept in it."""
