"""Formats that cross process borders: types, errors, configuration base, archive, weights."""
