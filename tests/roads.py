"""A whole server but for its doors, over the real ledger and an in-process transport."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from contract.identity import Identity
from pipeline.admission import Limits
from pipeline.catalog import load_plans
from pipeline.following import Following
from pipeline.intake import Intake
from pipeline.job import Out
from pipeline.plans import Plan
from pipeline.result_queue import ResultQueue
from storage.sqlite import SqliteLedger
from tests.drive import folders
from tests.inline import InlineTransport
from workers.base import Worker

ME = Identity.known("me")
YOU = Identity.known("you")
PATIENCE = 60.0


class Road:
    """A whole server but for its doors."""

    def __init__(
        self, folder: Path, toys: Iterable[type[Worker]], *plans: Plan, max_items: int = 3, **limits: Any
    ) -> None:
        self.folders = folders(folder / "data", folder)
        self.folders.speech.mkdir(parents=True, exist_ok=True)
        self.ledger = SqliteLedger(self.folders.ledger)
        crew = {toy.name: toy for toy in toys}
        self.transport = InlineTransport({name: toy(toy.Settings(), self.folders) for name, toy in crew.items()})
        self.plans = {**load_plans(crew, max_items), **{plan.name: plan for plan in plans}}
        intake = Intake(self.plans, self.folders, self.ledger)
        self.queue = ResultQueue(self.ledger, self.transport, self.plans, intake, Limits(**limits))
        self.following = Following(self.queue)
        self.told: list[tuple[str, str, Out]] = []
        self._news = asyncio.Event()
        for who in (ME, YOU):
            self.queue.listeners.of_client(who.client, partial(self._listen, who.client))

    def _listen(self, client: str, job: str, outs: tuple[Out, ...]) -> None:
        """What ME and YOU are told."""
        self.told += [(client, job, out) for out in outs]
        self._news.set()

    async def start(self) -> Road:
        await self.transport.start()
        await self.queue.start()
        return self

    async def close(self) -> None:
        await self.queue.close()
        await self.ledger.close()

    async def some_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def final(self, job: str) -> dict[str, Any]:
        answer = await self.following.answer(job, PATIENCE)
        assert answer is not None, "it ends in time"
        return answer
