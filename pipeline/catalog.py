"""Which plan a message gets: for each worker a plan of one stage and its batch form, and the pipelines.

A new worker is here by being found; a new pipeline is one row of `PIPELINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from contract.declaration import Declaration
from pipeline.batches import batch, listed, single
from pipeline.fish import fish
from pipeline.listen import listen
from pipeline.plans import Plan
from pipeline.shapes import check_shapes
from pipeline.video import BUSY, video

Workers = Mapping[str, type[Declaration]]


class Recipe(NamedTuple):
    """A plan that is made of what its workers declare. make: given the workers and `max_items`."""

    make: Callable[[Workers, int], Plan]
    needs: tuple[str, ...]


PIPELINES: tuple[Plan | Recipe, ...] = (
    Recipe(lambda found, limit: listed(found["dlp"], "urls", "url", limit, BUSY), ("dlp",)),
    Recipe(video, ("dlp", "whisper", "florence")),
    Recipe(fish, ("fish", "whisper")),
    Recipe(listen, ("whisper",)),
)
"""A plan, or how to make one, for each; it is there where all of its workers are."""


def load_plans(found: Workers, max_items: int) -> dict[str, Plan]:
    """Every plan by name. Raises: ValueError where one does not fit what its workers declare."""
    plans: list[Plan] = []
    for worker in found.values():
        plans += [single(worker), *([] if worker.live else [batch(worker, max_items)])]
    for row in PIPELINES:
        needs = row.workers if isinstance(row, Plan) else row.needs
        if found.keys() >= set(needs):
            plans.append(row if isinstance(row, Plan) else row.make(found, max_items))
    for plan in plans:
        check_shapes(plan, found)
    return {plan.name: plan for plan in plans}


def choose(plans: Mapping[str, Plan], raw: Mapping[str, Any]) -> Plan | None:
    """The plan that a message asks for by its `type`; a `data` list asks for the batch form where there is one.

    `v_conv` makes every type the `video` pipeline.
    """
    name = raw.get("type")
    if not isinstance(name, str) or "." in name:  # the batch forms' names are the server's own
        return None
    if raw.get("v_conv") is True and name in plans:
        name = "video"
    return (plans.get(f"{name}.data") if "data" in raw else None) or plans.get(name)
