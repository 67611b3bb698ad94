"""What the drills counted, as one table."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Figure(NamedTuple):
    """One thing that was counted or measured. promise: its row of the document.

    most: what it may be; None where it only says how much was tried.
    timed: it depends on how fast the machine is and on what else runs there, so the short form only shows it.
    """

    promise: str
    fault: str
    name: str
    value: float
    most: float | None = None
    timed: bool = False

    @property
    def kept(self) -> bool:
        return self.most is None or self.value <= self.most


@dataclass
class Ground:
    """What a drill is given: a folder of its own, chance that a seed repeats, and where it writes its figures down."""

    folder: Path
    seed: int
    long: bool = False
    figures: list[Figure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def pick(self, short: T, long: T) -> T:
        """How much is tried, by the form."""
        return long if self.long else short

    def tried(self, promise: str, fault: str, name: str, value: float) -> None:
        self.figures.append(Figure(promise, fault, name, value))

    def count(self, promise: str, fault: str, name: str, value: float, most: float = 0) -> None:
        self.figures.append(Figure(promise, fault, name, value, most))

    def time(self, promise: str, fault: str, name: str, seconds: float, most: float) -> None:
        self.figures.append(Figure(promise, fault, name, seconds, most, timed=True))

    def broken(self) -> list[Figure]:
        return [figure for figure in self.figures if not figure.kept and (self.long or not figure.timed)]


def table(figures: Iterable[Figure]) -> str:
    """As Markdown, by promise."""
    lines = ["| promise | fault | figure | value | at most |", "|---|---|---|---|---|"]
    for figure in sorted(figures, key=lambda figure: int(figure.promise[1:])):
        most = "" if figure.most is None else _shown(figure.most)
        broken = "" if figure.kept else " **broken**"
        lines.append(f"| {figure.promise} | {figure.fault} | {figure.name} | {_shown(figure.value)}{broken} | {most} |")
    return "\n".join(lines)


def _shown(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}".replace(",", " ")
    return f"{value:.{max(0, 2 - int(math.log10(abs(value))))}f}"


def say(text: str) -> None:
    """Progress of the long form."""
    print(text, file=sys.stderr, flush=True)
