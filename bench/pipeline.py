"""The `video` pipeline against doing its stages in turn: download, Whisper, Florence, one URL after the other.

    OPTIVUS_TEST_MODELS=… .venv/bin/python -m bench.pipeline [--rounds 5] [--seconds 40]

One server with Whisper base and the small Florence of the tests; three URLs of a site on this machine, unthrottled and
throttled so that one download takes as long as one analysis. The in-turn client asks the same server for the same
stages by `dlp`, `whisp` and `flrnc`, and waits for each. The two take turns, round by round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from client import Client
from media.audio import decode
from tests.recordings import EXAMPLE, with_sound
from tests.servers import Server
from tests.shapes import drawing, stills, write_film

URLS = 3
PIECE = 64 * 1024


class Throttle(ThreadingHTTPServer):
    """Serves one film at any path. seconds: how long one download takes."""

    def __init__(self, film: bytes) -> None:
        self.film = film
        self.seconds = 0.0
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.server_address[1]}/{number}.mp4" for number in range(URLS)]


class _Handler(BaseHTTPRequestHandler):
    server: Throttle

    def do_GET(self) -> None:
        film = self.server.film
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(len(film)))
        self.end_headers()
        whole = "Range" not in self.headers
        for start in range(0, len(film), PIECE):
            try:
                self.wfile.write(film[start : start + PIECE])
            except ConnectionError:  # it has seen enough to know the type
                return
            if whole and start:
                time.sleep(self.server.seconds * PIECE / len(film))

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=40.0, help="length of the film")
    args = parser.parse_args()
    models = Path(os.environ["OPTIVUS_TEST_MODELS"])
    settings = {
        "AI_WHISPER_MODEL": str(models / "whisper-base"),
        "AI_FLORENCE_MODEL": str(models / "florence2-shapes"),
        "DLP_ALLOW_PRIVATE": "1",
        "WHISPER_THREADS": "1",
        "FLORENCE_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as data:
        site = Throttle(film(Path(data), args.seconds))
        with Server(Path(data), **settings) as server, Client(server.url) as client:
            client.submit("video", urls=site.urls()).result()  # every model is there
            analysis = took(lambda: client.submit("video", urls=site.urls()[:1]).result())
            print("| downloads | pipeline s (spread) | in turn s (spread) | ratio (spread) |\n|---|---|---|---|")
            for name, seconds in (("unthrottled", 0.0), (f"{analysis:.1f} s each", analysis)):
                site.seconds = seconds
                compare(name, args.rounds, lambda: pipeline(client, site.urls()), lambda: in_turn(client, site.urls()))


def compare(name: str, rounds: int, ours: Callable[[], None], other: Callable[[], None]) -> None:
    pairs = [(took(ours), took(other)) for _ in range(rounds)]
    columns = [*(list(column) for column in zip(*pairs, strict=True)), [one / two for one, two in pairs]]
    shown = [f"{statistics.median(column):.2f} ({min(column):.2f}-{max(column):.2f})" for column in columns]
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


def pipeline(client: Client, urls: list[str]) -> None:
    client.submit("video", urls=urls).result()


def in_turn(client: Client, urls: list[str]) -> None:
    for url in urls:
        [item] = client.submit("dlp", urls=[url]).result()["data"]
        client.submit("whisp", file=item["file"]).result()
        client.submit("flrnc", file=item["file"]).result()


def film(folder: Path, seconds: float) -> bytes:
    """Shapes that change every five seconds, with the example spoken again and again."""
    names = ("red circle", "blue square", "green star", "yellow ring")
    shown = [(drawing(names[number % len(names)]), 5.0) for number in range(round(seconds / 5))]
    picture = write_film(folder / "picture.mp4", stills(shown, size=(640, 360)))
    speech = np.concatenate(list(decode(EXAMPLE)))
    samples = np.resize(speech, int(seconds * 16_000)).astype(np.float32)
    return with_sound(picture, samples, folder / "film.mp4").read_bytes()


def took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
