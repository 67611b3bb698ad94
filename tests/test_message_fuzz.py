"""Whatever strangers say, each of them is answered, and nobody beside them notices."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import orjson
import pytest

from gateway.packets import Packet
from pipeline.intake import MAX_CONTENT_BYTES
from tests.messages import asked, logged_faults, played_server
from tests.peers import Peer
from tests.servers import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with played_server(tmp_path_factory.mktemp("strangers")) as server:
        yield server


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}"])
def test_a_text_that_is_too_long_is_not_read_to_be_refused(letter: str) -> None:
    """15 MB with one emoji in them took 250 MB."""
    text = f'27["message",{{"id":5,"type":"x","text":"{"x" * MAX_CONTENT_BYTES}{letter}"}}]'
    tracemalloc.start()
    packet = Packet(encoded_packet=text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (packet.packet_type, packet.id, packet.data.id) == (2, 7, 5)
    assert packet.data.error.code == "TOO_LARGE"
    assert peak < 5 * MAX_CONTENT_BYTES


@pytest.mark.parametrize("head", ["2", "2/" + "x" * 400, "3[", "1[", "27" + "1" * 400, "2/x"])
def test_a_head_without_an_event_is_no_packet_however_long(head: str) -> None:
    with pytest.raises(ValueError, match="packet"):
        Packet(encoded_packet=head + "x" * MAX_CONTENT_BYTES + "[]")


HEAD = b"Host: localhost\r\nConnection: close\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"


def posted(body: bytes) -> bytes:
    return b"POST /jobs HTTP/1.1\r\n" + HEAD + FORM + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


FOUND = {
    "a field's name that is no UTF-8, in an error": (
        posted(b'--b\r\nContent-Disposition: form-data; name="da\xe6"\r\n\r\n1\r\n--b--\r\n'),
        400,
    ),
    "a field's name that is no UTF-8, of a file": (
        posted(b'--b\r\nContent-Disposition: form-data; name="da\xe6"; filename="x"\r\n\r\n1\r\n--b--\r\n'),
        400,
    ),
    "an Upgrade without its Connection": (
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n" + HEAD + b"Upgrade: websocket\r\n\r\n",
        400,
    ),
    "an Expect that nobody meets": (b"GET /voices HTTP/1.1\r\n" + HEAD + b"Expect: x\r\n\r\n", 400),
}
"""What was found: request → status."""


@pytest.mark.parametrize("before", ["nan x", "inf x", "-inf x", "1e400 x"])
async def test_a_page_behind_no_time_is_refused(server: Server, before: str) -> None:
    """It was answered as the end of the list."""
    async with Peer(server.url) as peer:
        answer = await peer.ask({"type": "jobs", "before": before})
    assert (answer["error_code"], answer["details"]["field"]) == ("INVALID_INPUT", "before")


@pytest.mark.parametrize("name", FOUND)
async def test_what_was_found_is_refused(server: Server, name: str) -> None:
    raw, status = FOUND[name]
    answered, body = await asked(server.port, raw)
    assert answered == status
    assert b"/socket.io/" in raw or orjson.loads(body)["error_code"]
    assert not logged_faults(server)
