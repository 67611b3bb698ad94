"""Every drill, by name; each is a function of its ground, and of the models that it names."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.costs import costs
from tests.chaos.floods import floods
from tests.chaos.full import full_disk, no_memory
from tests.chaos.kills import storm
from tests.chaos.power import power
from tests.chaos.report import Ground
from tests.chaos.secrets import secrets
from tests.chaos.soak import soak
from tests.chaos.strangers import forbidden_files, guesses, inner_addresses, spoilt_media, strange_messages
from tests.chaos.watch import watch

DRILLS: dict[str, Callable[..., Any]] = {
    drill.__name__: drill
    for drill in (
        *(storm, power, watch, floods, full_disk, no_memory, guesses, forbidden_files, inner_addresses, spoilt_media),
        *(strange_messages, secrets, costs, soak),
    )
}


def run(name: str, ground: Ground, models: Mapping[str, Path]) -> None:
    """models: folders by what drills call them, `whisper`, `florence`, `fish`."""
    drill = DRILLS[name]
    wanted = {model: models[model] for model in inspect.signature(drill).parameters if model in models}
    done = drill(ground, **wanted)
    if inspect.isawaitable(done):
        asyncio.run(_awaited(done))


async def _awaited(done: Any) -> None:
    await done
