"""Florence-2's prompts: the sentence that each asks, and the answer read as text and as places in the picture.

    a red circle<loc_102><loc_200><loc_310><loc_640>      label, then boxes: x1 y1 x2 y2, each a thousandth of a side
    STOP<loc_…>… (eight)                                  label, then the corners of a quadrangle
    <poly><loc_…><loc_…>…<sep>…</poly>                    polygons

A prompt's answer is one of these, as its row in PROMPTS says. (The model's paper: arXiv 2311.06242, section 4.1.)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Literal

Kind = Literal["text", "boxes", "quads", "polygons", "boxes or polygons"]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """question: with `{}` for the client's text, if it takes one. kind: of its answer. joint: between its labels."""

    question: str
    kind: Kind = "text"
    joint: str = ", "

    @property
    def takes_text(self) -> bool:
        return "{}" in self.question


PROMPTS = {
    "<CAPTION>": Prompt("What does the image describe?"),
    "<DETAILED_CAPTION>": Prompt("Describe in detail what is shown in the image."),
    "<MORE_DETAILED_CAPTION>": Prompt("Describe with a paragraph what is shown in the image."),
    "<OD>": Prompt("Locate the objects with category name in the image.", "boxes"),
    "<DENSE_REGION_CAPTION>": Prompt("Locate the objects in the image, with their descriptions.", "boxes"),
    "<REGION_PROPOSAL>": Prompt("Locate the region proposals in the image.", "boxes"),
    "<OCR>": Prompt("What is the text in the image?"),
    "<OCR_WITH_REGION>": Prompt("What is the text in the image, with regions?", "quads", " "),
    "<CAPTION_TO_PHRASE_GROUNDING>": Prompt("Locate the phrases in the caption: {}", "boxes"),
    "<REFERRING_EXPRESSION_SEGMENTATION>": Prompt("Locate {} in the image with mask", "polygons"),
    "<OPEN_VOCABULARY_DETECTION>": Prompt("Locate {} in the image.", "boxes or polygons"),
}
"""The sentences are those that the model was trained with."""

BINS = 1000
"""Places are thousandths of the picture's width or height."""

_MARKS = re.compile(r"</?s>|<pad>|<unk>|<mask>|</?(?:od|ocr|n?cap|dcap|grounding|seg|region_cap|proposal|and)>")
_PLACES = re.compile(r"(.*?)((?:<loc_\d+>|</?poly>|<sep>)+)", re.DOTALL)
_PLACE = re.compile(r"<loc_(\d+)>")
_BETWEEN = re.compile(r"</?poly>|<sep>")


def sentence(prompt: str, text: str | None) -> str:
    """The sentence to ask."""
    return PROMPTS[prompt].question.format(text)


def read(prompt: str, written: str, size: Size, text: str | None = None) -> dict[str, Any]:
    """``{"text"}``, and for prompts whose answer names places ``{"regions": [{"label", "box", …}]}``.

    written: the model's answer with its special tokens. size: the original picture's (width, height) in pixels.
    text: what the client asked for, the label of polygons that have none.
    A region's `box` is [x1, y1, x2, y2]; `quad` and `polygon` are flat lists x, y, x, y …
    """
    kind = PROMPTS[prompt].kind
    written = _MARKS.sub("", written)
    if kind == "text":
        return {"text": _PLACE.sub("", written).strip()}
    if kind == "boxes or polygons":
        kind = "polygons" if "<poly>" in written else "boxes"
    regions = list(_regions(written, kind, size, text or ""))
    return {
        "text": PROMPTS[prompt].joint.join(region["label"] for region in regions if region["label"]),
        "regions": regions,
    }


def _regions(written: str, kind: Kind, size: Size, asked: str) -> Iterator[dict[str, Any]]:
    for before, places in _PLACES.findall(written):
        label = before.strip()
        if kind == "polygons":
            for part in _BETWEEN.split(places):
                polygon = _points(part, size)
                if len(polygon) >= 6:
                    yield {"label": label or asked, "box": _around(polygon), "polygon": polygon}
            continue
        points = _points(places, size)
        width = 8 if kind == "quads" else 4
        for begin in range(0, len(points) - width + 1, width):
            part = points[begin : begin + width]
            region = {"label": label, "box": _around(part)}
            yield {**region, "quad": part} if kind == "quads" else region


def _points(places: str, size: Size) -> list[float]:
    """x, y, x, y … in pixels, whole pairs only; a bin stands for its middle."""
    bins = [min(int(number), BINS - 1) for number in _PLACE.findall(places)]
    bins = bins[: len(bins) // 2 * 2]
    return [round((number + 0.5) * size[place % 2] / BINS, 2) for place, number in enumerate(bins)]


def _around(points: list[float]) -> list[float]:
    xs, ys = points[::2], points[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]
