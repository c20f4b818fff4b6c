"""Scenes of the demo: a shape, its look and its path; each split has looks of its own."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SIDE = 56
FPS = 4
FRAMES_PER_EVENT = 4
NUM_FRAMES = 12

SPLITS = ("train", "val", "cal", "test")

Band = tuple[float, float]
Color = tuple[float, float, float]

_VELOCITY = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_RADIUS_SPEED = {"grow": 0.42, "shrink": -0.42}
_SMALLEST, _LARGEST = 4.0, 17.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Looks that one split may use. No look of val, cal or test occurs in another pool."""

    shapes: tuple[str, ...]
    backgrounds: tuple[str, ...]
    cameras: tuple[str, ...]
    hues: tuple[Band, ...]
    sizes: tuple[Band, ...]
    speeds: tuple[Band, ...]


POOLS = {
    "train": Pool(
        shapes=("circle", "square", "triangle", "diamond", "ring", "plus", "bar", "half", "blob"),
        backgrounds=("plain", "gradient", "stripes", "blotches", "speckle", "panels"),
        cameras=("still", "grain", "dim", "shake"),
        hues=((40, 80), (100, 120), (140, 180), (200, 225), (245, 260), (280, 290), (310, 380)),
        sizes=((6.0, 7.2), (7.6, 8.4), (8.8, 9.4), (9.8, 11.0)),
        speeds=((0.8, 0.9), (0.97, 1.05), (1.15, 1.25), (1.32, 1.5)),
    ),
    "val": Pool(
        shapes=("hexagon", "heart"),
        backgrounds=("checks",),
        cameras=("tint",),
        hues=((80, 100), (260, 280)),
        sizes=((7.2, 7.6),),
        speeds=((0.9, 0.97),),
    ),
    "cal": Pool(
        shapes=("crescent", "arrow"),
        backgrounds=("rings",),
        cameras=("vignette",),
        hues=((120, 140), (290, 310)),
        sizes=((8.4, 8.8),),
        speeds=((1.25, 1.32),),
    ),
    "test": Pool(
        shapes=("star", "pentagon", "ell"),
        backgrounds=("dots", "waves"),
        cameras=("fade", "roll"),
        hues=((20, 40), (180, 200), (225, 245)),
        sizes=((9.4, 9.8),),
        speeds=((1.05, 1.15),),
    ),
}
"""The base model and the labelled training clips share the pool ``train``."""

FAST = replace(POOLS["train"], speeds=((2.0, 3.3),))
"""Fast scenes for the base model's first minutes: it does not learn from slow motion alone."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Scene of a clip: all values that decide its pixels."""

    events: tuple[str, ...]
    shape: str
    background: str
    camera: str
    color: Color
    ground: tuple[Color, Color]
    angle: float
    track: NDArray[np.float64]
    """Per frame: x, y and radius in pixels."""
    texture_seed: int


def draw_scene(pool: Pool, events: Sequence[str], seed: int) -> Scene:
    """A scene of these events with a look out of the pool."""
    rng = np.random.default_rng(seed)
    color, ground = _colors(_from_bands(pool.hues, rng), rng)
    return Scene(
        events=tuple(events),
        shape=str(rng.choice(pool.shapes)),
        background=str(rng.choice(pool.backgrounds)),
        camera=str(rng.choice(pool.cameras)),
        color=color,
        ground=ground,
        angle=float(rng.uniform(0, 2 * np.pi)),
        track=_track(events, _from_bands(pool.sizes, rng), _from_bands(pool.speeds, rng), rng),
        texture_seed=int(rng.integers(1 << 62)),
    )


def _from_bands(bands: tuple[Band, ...], rng: np.random.Generator) -> float:
    """Uniform over the bands together, so that a wide band is chosen more often."""
    widths = np.array([high - low for low, high in bands])
    low, high = bands[int(rng.choice(len(bands), p=widths / widths.sum()))]
    return float(rng.uniform(low, high))


def _track(
    events: Sequence[str], size: float, speed: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The path, placed at random where all of it stays in the picture."""
    steps = np.zeros((NUM_FRAMES, 3))
    for frame in range(1, NUM_FRAMES):
        event = events[frame // FRAMES_PER_EVENT]
        steps[frame, :2] = np.multiply(_VELOCITY.get(event, (0, 0)), speed)
        steps[frame, 2] = _RADIUS_SPEED.get(event, 0.0) * speed
    track = steps.cumsum(axis=0)
    radius = track[:, 2]
    radius += size - (radius.max() + radius.min()) / 2
    radius += max(0.0, _SMALLEST - radius.min()) - max(0.0, radius.max() - _LARGEST)
    for axis in (0, 1):
        low = float((radius - track[:, axis]).max())
        high = float((SIDE - radius - track[:, axis]).min())
        middle = (low + high) / 2
        track[:, axis] += rng.uniform(low, high) if low < high else middle
    return track


def _colors(hue: float, rng: np.random.Generator) -> tuple[Color, tuple[Color, Color]]:
    """A strong colour for the shape and two dull ones, clearly lighter or darker, behind it."""
    color = colorsys.hsv_to_rgb(hue % 360 / 360, rng.uniform(0.75, 1), rng.uniform(0.7, 1))
    light = _luminance(color)
    options = [band for band in ((0.05, light - 0.18), (light + 0.18, 0.95)) if band[1] > band[0]]
    low, high = options[int(rng.integers(len(options)))]
    level = float(rng.uniform(low, high))
    # The second ground colour goes away from the shape's lightness, so contrast never shrinks.
    away = -1 if high < light else 1
    other = float(np.clip(level + away * rng.uniform(0.05, 0.2), 0.02, 0.98))
    return color, (_dull(level, rng), _dull(other, rng))


def _dull(level: float, rng: np.random.Generator) -> Color:
    tint = rng.uniform(-0.05, 0.05, 3)
    red, green, blue = np.clip(level + tint - tint.mean(), 0, 1)
    return float(red), float(green), float(blue)


def _luminance(color: Color) -> float:
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
