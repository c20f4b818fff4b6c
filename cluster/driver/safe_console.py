"""Console that shows text as it is: no markup unless asked for, no control characters.

    text, tables, progress -> SafeConsole -> terminal or log file

Labels, file names and errors are other people's text: ``[red]`` in one is no style, and an escape
sequence in one is shown, not carried out.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from wire.printable import printable


class SafeConsole(Console):
    """A rich console for text of any origin; what is ours and has styles asks for ``markup``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text of a string; before the layout, so that escapes have their width."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments to write: text of any renderable is printable, the console's own control codes
        stay."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)
