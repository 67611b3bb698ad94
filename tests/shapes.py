"""Pictures and films of coloured shapes on plain grounds, with the captions that a model trained on such should give.

Films are written frame by frame with PyAV, so that every cut's time, the keyframes and the clock are known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
Point = tuple[float, float]

COLOURS = {
    "red": (222, 28, 30),
    "green": (28, 150, 48),
    "blue": (30, 62, 220),
    "yellow": (248, 224, 30),
    "purple": (128, 36, 168),
    "orange": (250, 128, 16),
    "white": (246, 246, 246),
    "black": (14, 14, 14),
}
GROUNDS = {"gray": (132, 132, 132), "white": (246, 246, 246), "black": (14, 14, 14), "pink": (250, 168, 196)}
FINE = 3
"""Pictures are drawn so many times larger, for smooth edges."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """kind: circle, square, triangle, star, cross or ring. x, y: of its middle; size: its width; as shares of a side.

    size is a share of the picture's height: 0.3 is small to the model, 0.55 large.
    """

    colour: str
    kind: str
    x: float = 0.5
    y: float = 0.5
    size: float = 0.55

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels."""
        xs, ys = zip(*self.outline(width, height), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def outline(self, width: int, height: int) -> list[Point]:
        radius = self.size * height / 2
        return [(self.x * width + radius * x, self.y * height + radius * y) for x, y in _OUTLINES[self.kind]]


def _ray(turn: float, length: float = 1.0) -> Point:
    """turn: 0 is up, 1 a full turn clockwise."""
    return length * math.sin(2 * math.pi * turn), -length * math.cos(2 * math.pi * turn)


_ROUND = [_ray(step / 60) for step in range(60)]
_ARM = 0.32
_OUTLINES: dict[str, list[Point]] = {
    "circle": _ROUND,
    "ring": _ROUND,
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(x, y + 0.2) for x, y in (_ray(0), _ray(1 / 3), _ray(2 / 3))],
    "star": [_ray(step / 10, 0.42 if step % 2 else 1.0) for step in range(10)],
    "cross": [
        *((-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM)),
        *((_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM)),
    ],
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Shapes on a ground, left to right."""

    shapes: tuple[Shape, ...] = ()
    ground: str = "gray"

    @property
    def caption(self) -> str:
        if not self.shapes:
            return f"an empty {self.ground} background"
        named = [("an " if shape.name[0] in "aeiou" else "a ") + shape.name for shape in self.shapes]
        return named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]

    def image(self, width: int = 640, height: int = 360) -> Image.Image:
        return _drawn(self, width, height).copy()

    def pixels(self, width: int = 640, height: int = 360) -> Pixels:
        return np.asarray(_drawn(self, width, height))


def drawing(*names: str, ground: str = "gray", size: float | None = None) -> Drawing:
    """drawing("red circle", "blue star"): side by side."""
    count = len(names)
    size = size or (0.55 if count < 3 else 0.34)
    words = [name.split() for name in names]
    placed = (Shape(colour, kind, (place + 0.5) / count, 0.5, size) for place, (colour, kind) in enumerate(words))
    return Drawing(tuple(placed), ground)


@cache
def _drawn(what: Drawing, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width * FINE, height * FINE), GROUNDS[what.ground])
    pen = ImageDraw.Draw(image)
    for shape in what.shapes:
        outline = shape.outline(*image.size)
        pen.polygon(outline, fill=COLOURS[shape.colour])
        if shape.kind == "ring":
            inner = dataclasses.replace(shape, size=shape.size * 0.62)
            pen.polygon(inner.outline(*image.size), fill=GROUNDS[what.ground])
    return image.reduce(FINE)


Shows = Sequence[tuple[Drawing, float]]
"""What is shown, and for how many seconds."""
Size = tuple[int, int]


def stills(shown: Shows, rate: int = 25, size: Size = (320, 180)) -> Iterator[Pixels]:
    for what, seconds in shown:
        for _ in range(round(seconds * rate)):
            yield what.pixels(*size)


def fade(one: Drawing, other: Drawing, seconds: float, rate: int = 25, size: Size = (320, 180)) -> Iterator[Pixels]:
    """The frames of a cross-fade."""
    frames = round(seconds * rate)
    before, after = (what.pixels(*size).astype(np.float32) for what in (one, other))
    for number in range(1, frames + 1):
        share = number / (frames + 1)
        yield (before * (1 - share) + after * share).astype(np.uint8)


def noisy(frames: Iterable[Pixels], strength: float = 6) -> Iterator[Pixels]:
    """As a camera in a dim room: normal noise of that standard deviation, another in each frame."""
    rng = np.random.default_rng(0)
    tiles: list[npt.NDArray[np.float32]] = []
    for frame in frames:
        if not tiles:
            tiles = [rng.normal(0, strength, frame.shape).astype(np.float32) for _ in range(7)]
        yield np.clip(frame + tiles[rng.integers(7)], 0, 255).astype(np.uint8)


def write_film(
    path: Path,
    frames: Iterable[Pixels],
    *,
    rate: int = 25,
    codec: str = "libx264",
    gop: int = 250,
    scene_cuts: bool = True,
    times: Sequence[float] | None = None,
    start: float = 0.0,
    turn: int = 0,
    aspect: Fraction | None = None,
    pixel_format: str = "yuv420p",
    **options: str,
) -> Path:
    """A film without sound. times: of each frame, in seconds, instead of `rate`; start: of the first frame's clock.

    gop: frames from keyframe to keyframe, exactly so without scene_cuts. turn: degrees counterclockwise that players
    turn it. aspect: a pixel's width by its height.
    """
    base = Fraction(1, 90_000 if codec == "libx264" else rate)
    if codec == "libx264":
        fixed = {} if scene_cuts else {"sc_threshold": "0", "keyint_min": str(gop)}
        options = {"preset": "veryfast", "threads": "1", **fixed, **options}
    with av.open(str(path), "w") as container:
        stream: Any = None
        for number, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options={"g": str(gop), **options})
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.time_base = base
                if aspect:
                    stream.codec_context.sample_aspect_ratio = aspect
                if turn:
                    stream.set_display_rotation(turn)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            time = start + (times[number] if times else number / rate)
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time / frame.time_base)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    return path
