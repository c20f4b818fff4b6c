"""Parsers of other people's rows: one module per format, its parse and its recogniser."""
