"""Workers that fail in every way that a worker can, each with what its user sent in the exception's text."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from workers.base import AsyncWorker, Context, Params, Run, Worker, WorkerSettings


class LeakyParams(Params):
    how: str
    text: str


def plain(text: str) -> None:
    raise RuntimeError(f"cannot do {text}")


def loud(text: str) -> None:
    raise RuntimeError(f"cannot do {text.upper()[3:]}")


def part(text: str) -> None:
    raise RuntimeError(f"no token for {text.rsplit(maxsplit=1)[-1]}, nor for {text.split(maxsplit=1)[0]!r}")


def key(text: str) -> None:
    raise KeyError(text)


def number(text: str) -> None:
    int(text)


def encoded(text: str) -> None:
    (text + "\udc80").encode()


def path(text: str) -> None:
    Path(f"/nowhere/{text}").read_text()


def chained(text: str) -> None:
    try:
        key(text)
    except KeyError as exc:
        raise ValueError(f"{text} is wrong") from exc


def grouped(text: str) -> None:
    noted = ValueError(text)
    noted.add_note(f"a note about {text}")
    raise ExceptionGroup(f"all about {text}", [noted, ExceptionGroup("inner", [RuntimeError(text)])])


def of_a_library(text: str) -> None:
    logging.getLogger("library").error("this is %s", text)
    logging.getLogger("library").warning("this is " + repr(text))
    thread = threading.Thread(target=plain, args=(text,))
    with_subject = threading.Thread(target=key, args=(text,))
    for each in (thread, with_subject):
        each.start()
        each.join()
    plain(text)


def crash(_: str) -> None:
    os._exit(7)


WAYS: dict[str, Callable[[str], None]] = {
    way.__name__: way for way in (plain, loud, part, key, number, encoded, path, chained, grouped, of_a_library, crash)
}


class Leaky(Worker):
    """Fails in `run` or, with `forward`, in a batch."""

    name = "leaky"
    message_type = "leaky"
    answer: ClassVar[dict[str, Any]] = {"leaky": "$leaky"}
    Params = LeakyParams
    example: ClassVar[dict[str, Any]] = {"how": "well", "text": ""}
    batch = 8

    def run(self, params: LeakyParams, ctx: Context) -> Run:
        local_variable = f"localmarker {params.text}"
        if params.how in WAYS:
            WAYS[params.how](params.text)
        if params.how == "result":
            return {"not": {1, 2}, "json": object(), "text": local_variable}
        return (yield [params, params])

    def forward(self, units: list[LeakyParams]) -> list[Any]:
        local_variable = [f"localmarker {unit.text}" for unit in units]
        if any(unit.how == "forward" for unit in units):
            raise RuntimeError(f"cannot do {units[-1].text} {len(local_variable)}")
        return [len(unit.text) for unit in units]


class LeakyAsync(AsyncWorker):
    """Fails beside the event loop, and leaves a task behind that fails unseen."""

    name = "leaky_async"
    message_type = "leaky_async"
    answer: ClassVar[dict[str, Any]] = {"leaky_async": "$leaky_async"}
    Params = LeakyParams
    example: ClassVar[dict[str, Any]] = {"how": "well", "text": ""}

    async def run_async(self, params: LeakyParams, ctx: Context) -> Any:
        async def unseen(text: str) -> None:
            plain(text)

        left_behind = asyncio.ensure_future(unseen(params.text))
        await asyncio.wait([left_behind])
        del left_behind
        asyncio.get_running_loop().call_soon(plain, params.text)
        await asyncio.sleep(0)
        await asyncio.to_thread(WAYS[params.how], params.text)


class LeakyLoad(Worker):
    """Cannot be loaded, for a reason that its operator has to see."""

    name = "leaky_load"
    message_type = "leaky_load"
    answer: ClassVar[dict[str, Any]] = {"leaky_load": "$leaky_load"}
    Params = LeakyParams
    Settings = WorkerSettings
    example: ClassVar[dict[str, Any]] = {"how": "well", "text": ""}

    def load(self) -> dict[str, Any]:
        local_variable = "localmarker"
        raise OSError(2, f"No such library, {len(local_variable)}", "libneeded.so.12")
