"""Durations and sizes as people read them."""


def format_duration(seconds: float) -> str:
    """A duration in its largest unit, of which there are at least two: ``90 s``, ``3 h``."""
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_hours(seconds: float) -> str:
    """A duration in hours and minutes: ``1 h 20 min``."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def format_bytes(number: float, *, gb_from: float = 10**9, mb_from: float = 10**6) -> str:
    """A size in GB, MB or kB, decimal units; ``gb_from``, ``mb_from``: bytes from which on each is
    used."""
    for unit, factor, smallest in (("GB", 10**9, gb_from), ("MB", 10**6, mb_from)):
        if number >= smallest:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1000:.1f} kB"
