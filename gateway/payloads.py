"""Engine.IO's long-polling body: what cannot be read is refused, where python-engineio drops it with a 200."""

from __future__ import annotations

from engineio import packet, payload
from engineio.exceptions import EngineIOError, UnknownPacketError


class Payload(payload.Payload):
    """Takes the place of `engineio.payload.Payload`."""

    max_decode_packets = 100_000  # the limit is the transport's; clients send all that waits at once

    def decode(self, encoded_payload: str) -> None:
        """Raises: EngineIOError, which ends the session with a 400."""
        try:
            super().decode(encoded_payload)
        except (ValueError, LookupError) as exc:
            raise EngineIOError from exc
        if any(one.packet_type >= len(packet.packet_names) for one in self.packets):
            raise UnknownPacketError
