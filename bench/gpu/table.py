"""The rows that are printed: medians with their spread, goals, and where the time went."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

from bench.gpu.turns import Found, Taken

HEAD = """\
| what | who | median (spread) | goal | reached | in `forward` | GPU | busy cores |
|---|---|---|---|---|---|---|---|"""


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """Of the median of somebody's figure. times: whose figure of the same name the limit is a multiple of; none: it is
    absolute. most: it is an upper limit. always: of every round's figure.
    """

    who: str
    figure: str
    limit: float
    times: str = ""
    most: bool = False
    always: bool = False

    def reached(self, found: Found) -> str:
        """`yes` or `no`, and how far."""
        figure = middle(found[self.who], self.figure)
        if self.always:
            figure = (max if self.most else min)(one.figures[self.figure] for one in found[self.who])
        if self.times:
            figure /= middle(found[self.times], self.figure)
        held = figure <= self.limit if self.most else figure >= self.limit
        return f"{'yes' if held else 'no'}, {figure:.2f} x" if self.times else ("yes" if held else "no")

    def __str__(self) -> str:
        limit = f"{self.limit:g} times {self.times}" if self.times else f"{self.limit:g} {self.figure}"
        return f"{'<=' if self.most else '>='} {limit}"


def print_rows(what: str, found: Found, goals: Sequence[Goal]) -> None:
    """A row for each. Raises: RuntimeError, when they are printed, where somebody was not measured."""
    for row in rows(what, found, goals):
        print(row, flush=True)
    if missing := [who for who, taken in found.items() if not taken]:
        raise RuntimeError(f"not measured: {', '.join(missing)}")


def rows(what: str, found: Found, goals: Sequence[Goal]) -> Iterator[str]:
    """All figures of each that took turns, and whether it reaches those goals that can be told."""
    for who, taken in found.items():
        own = [goal for goal in goals if goal.who == who and (not goal.times or found[goal.times])]
        if not taken:
            yield f"| {what} | {who} | not measured | {'; '.join(map(str, own)) or '-'} | - | - | - | - |"
            continue
        figures = [f"{spread([one.figures[name] for one in taken])} {name}" for name in taken[0].figures]
        reached = "; ".join(goal.reached(found) for goal in own)
        cells = [what, who, "; ".join(figures), "; ".join(map(str, own)) or "-", reached or "-", *_machine(taken)]
        yield f"| {' | '.join(cells)} |"


def middle(taken: Sequence[Taken], figure: str) -> float:
    return statistics.median(one.figures[figure] for one in taken)


def spread(values: Sequence[float]) -> str:
    """The median, with the least and the most."""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"


def _machine(taken: Sequence[Taken]) -> list[str]:
    cores = {name: statistics.median(one.cores[name] for one in taken) for name in taken[0].cores}
    busy = ", ".join(f"{name} {count:.2f}" for name, count in cores.items())
    return [_share([one.forward for one in taken]), _share([one.gpu for one in taken]), busy]


def _share(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.0%}" if known else "-"
