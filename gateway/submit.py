"""`POST /jobs`: a message as JSON, or as a form with its files; `?wait=SECONDS` answers with what came of it.

form ─▶ files kept as uploads, fields as the plan's types ─┐
JSON ──────────────────────────────────────────────────────┴▶ submit ─▶ 202, or after a wait the final answer
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import BodyPartReader, web

from contract.errors import ERRORS, Internal, InvalidInput, TooLarge
from contract.identity import Identity
from gateway.answers import MESSAGE, parsed, reply, reply_in_parts, while_connected
from gateway.auth import Authenticators
from gateway.files import Uploads, next_chunk, parts_of
from gateway.form import fields_for_files, message_of, takes_no_file
from gateway.unfinished import Held, held_of, whole_body
from pipeline.following import Following
from pipeline.intake import MAX_CONTENT_BYTES, check_message
from pipeline.plans import Plan
from pipeline.result_queue import ResultQueue
from storage import blobs
from storage.files import is_unicode
from storage.records import FileRecord

MAX_WAIT_SECONDS = 600.0
MAX_FIELDS = 2000


class SubmitDoor:
    """The route that takes jobs in."""

    def __init__(
        self,
        road: ResultQueue,
        following: Following,
        callers: Authenticators,
        uploads: Uploads,
        plans: Mapping[str, Plan],
    ) -> None:
        self._road = road
        self._following = following
        self._callers = callers
        self._uploads = uploads
        self._plans = plans
        self._for_files = frozenset[str]().union(*map(fields_for_files, plans.values()))

    def attach(self, app: web.Application) -> None:
        app.add_routes([web.post("/jobs", self._submit)])

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        """Accept a message, as JSON or as a form with its files; answers 202 with its `job_id`.

        With `?wait=SECONDS` (at most 600) the final answer, if it comes in time. A token comes with the answer if none
        was sent.
        """
        seconds = _seconds(request.query.get("wait"))
        known = self._callers.known(request)
        who = known or self._callers.who(request)
        if (request.content_type or "").startswith("multipart/"):
            message, job_id = await self._submit_form(request, who)
        else:
            message = parsed(await whole_body(request), "the same as a `message`")
            job_id = await self._accept(request, message, who)
        held_of(request).clear()  # the job has it now, and has a limit of its own
        token = {"token": self._callers.token(who)} if known is None else {}
        if seconds and (answer := await while_connected(request, self._following.answer(job_id, seconds))):
            failed = answer["status"] == "error"
            status = ERRORS.get(answer.get("error_code", ""), Internal).status if failed else 200
            parts = await asyncio.to_thread(blobs.parts, {**answer, **token}, self._uploads.folders)
            return await reply_in_parts(request, parts, status)
        return reply({"job_id": job_id, "id": message.get("id"), **token}, 202)

    async def _accept(self, request: web.Request, message: Any, who: Identity) -> str:
        check_message(message)
        request[MESSAGE] = message
        return await self._road.submit(message, who)

    async def _submit_form(self, request: web.Request, who: Identity) -> tuple[dict[str, Any], str]:
        """(message, job id) of a form; when it is refused, its files do not stay."""
        async with self._uploads.all_or_none(request) as kept:
            files: set[str] = set()
            fields = [field async for field in self._fields(request, who, kept, files)]
            message = message_of(fields, self._plans, files)
            return message, await self._accept(request, message, who)

    async def _fields(
        self, request: web.Request, who: Identity, kept: list[FileRecord], files: set[str]
    ) -> AsyncIterator[tuple[str, str]]:
        """The form's fields in order, files as their ids. kept, files: filled with the files, and with their fields.

        Which plan it is may be told by a later field, so a file stays for now where any plan takes one.
        """
        count, room = 0, MAX_CONTENT_BYTES
        async for part in parts_of(request):
            name = part.name if isinstance(part, BodyPartReader) else None
            if name is None or not is_unicode(name) or not isinstance(part, BodyPartReader):
                raise InvalidInput("Each part of the form must be a field with a name, in UTF-8.")
            count += 1
            if count > MAX_FIELDS:
                raise TooLarge(f"A form may have {MAX_FIELDS} fields.")
            if part.filename is None:
                text = await _text(part, name, room, held_of(request))
                room -= len(text)
                yield name, text
            elif name in self._for_files:
                kept.append(await self._uploads.keep(part, who.owner))
                files.add(name)
                yield name, kept[-1].id
            else:
                raise takes_no_file(name)


def _seconds(given: str | None) -> float:
    """0 for who does not want to wait. Raises: InvalidInput."""
    try:
        seconds = float(given or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise InvalidInput(f"'wait' must be a number of seconds up to {MAX_WAIT_SECONDS:g}.", field="wait")
    return seconds


async def _text(part: BodyPartReader, name: str, room: int, held: Held) -> str:
    """A field's text, of at most so many bytes."""
    content = bytearray()
    while chunk := await next_chunk(part):
        content += chunk
        held.add(len(chunk))
        if len(content) > room:
            limit = MAX_CONTENT_BYTES // 2**20
            raise TooLarge(f"A form's fields may have {limit} MiB together; send more as files.", field=name)
    if not part.at_eof():
        raise InvalidInput("The form was cut short; send it again.", field=name)
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"The form's field {name!r} is no text in UTF-8.", field=name) from exc
