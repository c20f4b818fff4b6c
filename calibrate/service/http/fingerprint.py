"""Fingerprint of a payload, taken while it streams by; the boundary of a form, which clients draw
anew for each retry, is no part of it."""

import hashlib

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header


class Fingerprint:
    """SHA-256 of a body, of a form part by part: its headers and its data."""

    def __init__(self, content_type: str, query: bytes) -> None:
        kind, options = parse_options_header(content_type)
        self._whole = hashlib.sha256(kind + b"\0" + query + b"\0")
        self._parser: MultipartParser | None = None
        self.broken = False
        """Whether the body is no form although it says so: then the fingerprint is of no use."""
        if kind == b"multipart/form-data" and options.get(b"boundary"):
            self._head, self._data = hashlib.sha256(), hashlib.sha256()
            try:
                self._parser = self._parser_of(options[b"boundary"])
            except FormParserError:  # a boundary that is too long
                self.broken = True

    def add(self, chunk: bytes) -> None:
        """Add the next bytes of the body."""
        if self._parser is None:
            self._whole.update(chunk)
        elif not self.broken:
            try:
                self._parser.write(chunk)
            except FormParserError:
                self.broken = True

    def hex(self) -> str:
        """The fingerprint of all that was added."""
        return self._whole.hexdigest()

    def _parser_of(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_head,
                "on_header_value": self._add_head,
                "on_header_end": lambda: self._head.update(b"\0"),
                "on_part_data": lambda data, start, end: self._data.update(data[start:end]),
                "on_part_end": self._end,
            },
        )

    def _begin(self) -> None:
        self._head, self._data = hashlib.sha256(), hashlib.sha256()

    def _add_head(self, data: bytes, start: int, end: int) -> None:
        self._head.update(data[start:end])

    def _end(self) -> None:
        self._whole.update(self._head.digest() + self._data.digest())
