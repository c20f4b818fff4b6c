"""Draws the frames of a demo scene."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.demo.scenes import NUM_FRAMES, SIDE, Scene

_NOISE, _GRAIN = np.float32(0.03), np.float32(0.07)

Plane = NDArray[np.floating[Any]]

_ROW, _COLUMN = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5


def render(scene: Scene) -> NDArray[np.uint8]:
    """Render a scene as ``(frames, height, width, 3)``."""
    rng = np.random.default_rng(scene.texture_seed)
    x, y = _look_through(scene.camera, rng)
    weight = _background(scene.background, x, y, rng)[..., None]
    first, second = (np.array(color, np.float32) for color in scene.ground)
    ground = first + weight * (second - first)
    track = scene.track.astype(np.float32)[:, :, None, None]
    cos, sin = np.float32(np.cos(scene.angle)), np.float32(np.sin(scene.angle))
    u = ((x - track[:, 0]) * cos + (y - track[:, 1]) * sin) / track[:, 2]
    v = ((y - track[:, 1]) * cos - (x - track[:, 0]) * sin) / track[:, 2]
    # One pixel of soft edge: the depth inside the shape, back in pixels.
    inside = np.clip(_shape(scene.shape, u, v, rng) * track[:, 2] + 0.5, 0, 1)[..., None]
    frames = ground + inside * (np.array(scene.color, np.float32) - ground)
    developed = _develop(scene.camera, frames, rng) * 255
    return np.asarray(np.clip(developed + 0.5, 0, 255), dtype=np.uint8)


def _look_through(camera: str, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Picture coordinates seen at each pixel of each frame."""
    x, y = _COLUMN[None], _ROW[None]
    if camera == "shake":
        shift = rng.uniform(-0.4, 0.4, (2, NUM_FRAMES, 1, 1)).astype(np.float32)
        return x + shift[0], y + shift[1]
    if camera == "roll":
        angle = np.float32(rng.choice((-1, 1)) * rng.uniform(0.05, 0.12))
        middle = np.float32(SIDE / 2)
        cos, sin = np.cos(angle), np.sin(angle)
        rolled_x = middle + (x - middle) * cos - (y - middle) * sin
        return rolled_x, middle + (y - middle) * cos + (x - middle) * sin
    return x, y


def _develop(camera: str, clean: Plane, rng: np.random.Generator) -> Plane:
    """Apply the camera's brightness, colour and noise."""
    noise = _GRAIN if camera == "grain" else _NOISE
    frames = clean + noise * rng.standard_normal(clean.shape, np.float32)
    if camera == "dim":
        return frames * np.float32(rng.uniform(0.65, 0.85))
    if camera == "tint":
        return frames * rng.uniform(0.82, 1.0, 3).astype(np.float32)
    if camera == "vignette":
        far = ((_COLUMN - SIDE / 2) ** 2 + (_ROW - SIDE / 2) ** 2) / SIDE**2
        return np.asarray(frames * (1.05 - 0.5 * far)[..., None].astype(np.float32))
    if camera == "fade":
        first, last = rng.uniform(0.8, 1.0, 2)
        slope = np.linspace(first, last, NUM_FRAMES, dtype=np.float32)
        return frames * slope[:, None, None, None]
    return frames


def _background(kind: str, x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    """Share of the second ground colour, between 0 and 1."""
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(7, 14)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    wave = np.float32(2 * np.pi / period)
    if kind == "gradient":
        return np.asarray((along - along.min()) / (along.max() - along.min()))
    if kind == "panels":
        return _soft(along - along.mean() - np.float32(rng.uniform(-12, 12)))
    if kind == "stripes":
        return _soft(3 * np.sin(along * wave))
    if kind == "waves":
        across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
        return _soft(3 * np.sin((along + 3 * np.sin(across * wave)) * wave))
    if kind == "checks":
        return _soft(4 * np.sin(x * wave) * np.sin(y * wave))
    if kind == "dots":
        return _soft(5 * (np.cos(x * wave) + np.cos(y * wave) - 1))
    if kind == "rings":
        centre = rng.uniform(0, SIDE, 2).astype(np.float32)
        return _soft(3 * np.sin(np.hypot(x - centre[0], y - centre[1]) * wave))
    if kind == "blotches":
        coarse = rng.uniform(0, 1, (8, 8)).astype(np.float32)
        return coarse[_cell(y), _cell(x)]
    if kind == "speckle":
        # Tied to the picture, not to the frame, as a real wall would be.
        fine = (rng.uniform(0, 1, (SIDE, SIDE)) < 0.12).astype(np.float32)
        return fine[_pixel(y), _pixel(x)]
    return np.zeros_like(x + y)


def _soft(depth: Plane) -> Plane:
    return np.clip(depth + np.float32(0.5), 0, 1)


def _cell(axis: Plane) -> NDArray[np.intp]:
    return (_pixel(axis) * 8) // SIDE


def _pixel(axis: Plane) -> NDArray[np.intp]:
    return np.clip(axis, 0, SIDE - 1).astype(np.intp)


def _regular(corners: int) -> Callable[[Plane, Plane], Plane]:
    """A regular polygon in the unit circle, as the depth below its nearest edge."""
    apothem = np.float32(np.cos(np.pi / corners))
    turns = [2 * np.pi * k / corners for k in range(corners)]

    def depth(u: Plane, v: Plane) -> Plane:
        out = apothem - u
        for turn in turns[1:]:
            out = np.minimum(
                out, apothem - u * np.float32(np.cos(turn)) - v * np.float32(np.sin(turn))
            )
        return out

    return depth


def _box(u: Plane, v: Plane, width: float, height: float) -> Plane:
    return np.minimum(np.float32(width) - np.abs(u), np.float32(height) - np.abs(v))


def _star(u: Plane, v: Plane) -> Plane:
    swing = np.abs((np.arctan2(v, u) * np.float32(5 / (2 * np.pi))) % 1 - np.float32(0.5)) * 2
    return np.asarray(
        (np.float32(0.45) + np.float32(0.55) * swing - np.hypot(u, v)) * np.float32(0.6)
    )


def _heart(u: Plane, v: Plane) -> Plane:
    lobes = np.float32(0.55) - np.hypot(np.abs(u) - np.float32(0.45), v + np.float32(0.3))
    tip = _box((u + v) * np.float32(0.7071), (v - u) * np.float32(0.7071), 0.62, 0.62)
    return np.asarray(np.maximum(lobes, np.minimum(tip, v + np.float32(0.3))))


def _arrow(u: Plane, v: Plane) -> Plane:
    head = np.minimum(u, (1 - u - np.abs(v)) * np.float32(0.7071))
    return np.asarray(np.maximum(head, _box(u + np.float32(0.4), v, 0.55, 0.33)))


_SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": lambda u, v: 1 - np.hypot(u, v),
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "triangle": _regular(3),
    "diamond": lambda u, v: (
        (np.float32(0.6) - np.abs(u) * np.float32(0.6) - np.abs(v)) * np.float32(0.86)
    ),
    "ring": lambda u, v: np.float32(0.28) - np.abs(np.hypot(u, v) - np.float32(0.72)),
    "plus": lambda u, v: np.maximum(_box(u, v, 0.95, 0.33), _box(u, v, 0.33, 0.95)),
    "bar": lambda u, v: _box(u, v, 1.0, 0.42),
    "half": lambda u, v: np.minimum(1 - np.hypot(u, v), v + np.float32(0.25)),
    "hexagon": _regular(6),
    "heart": _heart,
    "crescent": lambda u, v: np.minimum(
        1 - np.hypot(u, v), np.hypot(u - np.float32(0.5), v) - np.float32(0.7)
    ),
    "arrow": _arrow,
    "star": _star,
    "pentagon": _regular(5),
    "ell": lambda u, v: np.maximum(
        _box(u + np.float32(0.45), v, 0.33, 0.85), _box(u, v - np.float32(0.52), 0.78, 0.33)
    ),
}


def _shape(name: str, u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """Depth inside the shape, in units of its radius; negative outside."""
    if name != "blob":
        return _SHAPES[name](u, v)
    # Low orders only: a blob never comes near the pentagon, hexagon or star of other splits.
    turn = np.arctan2(v, u)
    radius = np.full_like(turn, 0.8)
    for order in (2, 3):
        radius += np.float32(rng.uniform(0.03, 0.15)) * np.cos(
            order * turn + np.float32(rng.uniform(0, 2 * np.pi))
        )
    return np.asarray(radius - np.hypot(u, v))
