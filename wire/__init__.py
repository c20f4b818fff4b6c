"""What crosses a process border: types, errors, configuration base, archive, weight format."""
