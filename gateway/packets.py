"""Socket.IO packets as they are read: every event can be answered, whatever stands in it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson
from engineio.exceptions import ContentTooLongError
from socketio import packet as packets

from contract.errors import InvalidInput, ServiceError, TooLarge, as_failure
from gateway.outbound import Outgoing
from pipeline.intake import MAX_CONTENT_BYTES, check_text, id_in, too_large

MAX_TRANSPORT_BYTES = 16 * 1024 * 1024
_ANNOUNCED = re.compile("5([0-9]{1,9})-")
"""How many attachments follow."""
READ = (packets.CONNECT, packets.EVENT, packets.BINARY_EVENT)
"""Packets that are answered, whatever they bring."""
MAX_HEAD = 300
"""Characters before a packet's JSON: its type, namespace and number."""
_BODY = re.compile(r"[\[{]")
"""Where a packet's JSON begins."""


class Json:
    """orjson with the calls that python-socketio makes."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        """Raises: orjson.JSONDecodeError; TooMany, before anything is made of it."""
        try:
            check_text(text)
        except TooLarge as exc:
            raise TooMany(exc) from exc
        return orjson.loads(text)


class TooMany(ValueError):
    """The JSON holds more values than a message may."""

    def __init__(self, error: TooLarge) -> None:
        super().__init__(error.message)
        self.error = error


class Packet(packets.Packet):
    """A Socket.IO packet of which every event can be answered, whatever stands in it."""

    packet_type: int
    held = 0

    def decode(self, encoded_packet: str) -> int:
        """How many attachments follow. What cannot be read is `malformed`, and answered when they have come."""
        if len(encoded_packet) > MAX_CONTENT_BYTES:
            return self._too_large(encoded_packet)
        try:
            announced = super().decode(encoded_packet) or 0
        except (orjson.JSONDecodeError, TooMany) as exc:
            if self.packet_type not in READ:
                raise
            self.data = Unreadable(exc.error, id_in(encoded_packet)) if isinstance(exc, TooMany) else malformed()
            found = _ANNOUNCED.match(encoded_packet)
            announced = int(found[1]) if found else 0
        if self.packet_type == packets.BINARY_EVENT and not announced:
            self.packet_type = packets.EVENT  # else the next packet would be taken for its attachment
        return announced

    def _too_large(self, text: str) -> int:
        """As `decode`, but of the packet's head alone: one emoji makes four bytes of each letter, in every copy."""
        body = _BODY.search(text, 0, MAX_HEAD)
        if body is None:
            raise ValueError("a packet without a body")
        announced = self.decode(text[: body.start()] + "[]")
        if self.packet_type not in READ:
            raise ValueError("a packet that brings nothing to read")
        self.data = Unreadable(too_large(), id_in(text))
        return announced

    def add_attachment(self, attachment: bytes) -> bool:
        """True when it was the last. Raises: ContentTooLongError."""
        self.held += len(attachment) + 64
        if self.held > MAX_TRANSPORT_BYTES:
            raise ContentTooLongError
        try:
            return bool(super().add_attachment(attachment))
        except (LookupError, TypeError, RecursionError):  # a placeholder that refers to nothing
            self.data = malformed()
            return True


class Unreadable(NamedTuple):
    """Stands for the data of an event that cannot be read. id: the client's own, where it could be seen."""

    error: ServiceError
    id: Any = None


def malformed() -> Unreadable:
    """One of its own for each packet: an exception that is raised again keeps every frame that it ever went through."""
    return Unreadable(
        InvalidInput("This packet is not an event with JSON in it: numbers must be finite, and text whole Unicode.")
    )


def refusal(error: ServiceError) -> Outgoing:
    """The error for a message that nobody can answer by name."""
    body = {"type": None, "id": None, "job_id": None, "status": "error", **as_failure(error)}
    return Outgoing([b'2["message",', orjson.dumps(body), b"]"])
