"""A film, a picture and a sound of known content, for tests of the road from a source to its answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from media.audio import decode
from tests.recordings import EXAMPLE, beep, with_sound, write
from tests.servers import Server
from tests.shapes import drawing, stills, write_film

SHOWN = (("a red circle", drawing("red circle"), 5.0), ("a blue square", drawing("blue square"), 6.0))
"""What `film.mp4` shows, as (caption, drawing, seconds); it says what EXAMPLE says."""


def furnish(folder: Path) -> Path:
    """Write `film.mp4`, `silent.mp4`, `picture.png` (the film's first) and `sound.wav` (2 s without speech)."""
    shown = stills([(what, seconds) for _, what, seconds in SHOWN], rate=10)
    silent = write_film(folder / "silent.mp4", shown, rate=10)
    with_sound(silent, np.concatenate(list(decode(EXAMPLE))), folder / "film.mp4")
    SHOWN[0][1].image().save(folder / "picture.png")
    write(folder / "sound.wav", beep(2.0, at=1.0))
    return folder


def film_server(folder: Path, whisper_model: Path, florence_model: Path) -> Server:
    """With Whisper, Florence, and downloads from this machine; its media root is `folder`."""
    models = {"AI_WHISPER_MODEL": str(whisper_model), "AI_FLORENCE_MODEL": str(florence_model)}
    allowed = {"MEDIA_ROOTS": str(folder), "DLP_ALLOW_PRIVATE": "1", "DLP_RETRY_SECONDS": "0.02"}
    return Server(folder, **models, **allowed, FLORENCE_THREADS="1", WHISPER_THREADS="1")
