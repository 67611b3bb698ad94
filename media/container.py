"""Opening a stranger's audio or video: the one place where FFmpeg meets a file.

FFmpeg is given an open file and no protocol, so nothing that a stranger wrote into a file can make it open another;
playlists (HLS, DASH, concat) and image sequences are no formats here at all, whatever the file's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from contract.errors import FileNotFound, UnsupportedMedia
from media import ffmpeg, kinds, memory
from media.opening import MOST_SECONDS, Heavy, Reader, too_heavy

MAX_FRAME_PIXELS = 40_000_000
"""An 8K frame has 35 million; decoding one takes six bytes for each."""
_MAX_STREAMS = 64

_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": ",".join(kinds.FORMATS),
    "max_streams": str(_MAX_STREAMS),
    "max_pixels": str(MAX_FRAME_PIXELS),  # while probing, which decodes frames of some codecs
}

_LONGEST_DURATION_SECONDS = 7 * 24 * 3600.0
"""Seconds; a container that claims more is not believed."""
_DAMAGED_READS = 100
"""After so many failed reads in a row, the rest of a file is given up."""


memory.bound_ffmpeg()


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """What a file says of itself. duration: seconds, an estimate for some formats, None where the file does not say.

    demuxer: one of `kinds.FORMATS`. codecs: FFmpeg's names of those that it can decode.
    """

    duration: float | None
    has_audio: bool
    has_video: bool
    demuxer: str
    codecs: frozenset[str]


def probe(path: Path) -> Probe:
    """Look into a file without decoding it. Raises: UnsupportedMedia, FileNotFound."""
    with opened(path) as container:
        return probed(container)


def probed(container: Any) -> Probe:
    pictures = [stream for stream in container.streams.video if not is_cover(stream)]
    codecs = (stream.codec_context.name for stream in (*pictures, *container.streams.audio) if stream.codec_context)
    demuxer = container.format.name.partition(",")[0]
    return Probe(duration_of(container), bool(container.streams.audio), bool(pictures), demuxer, frozenset(codecs))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """PyAV's container for a file. Raises: UnsupportedMedia, FileNotFound."""
    with ExitStack() as stack:
        try:
            file, container = stack.enter_context(_opening(path))
        except Heavy as exc:  # tried first where it can be stopped
            if not ffmpeg.opens(path, MOST_SECONDS):
                raise too_heavy() from exc
            file, container = stack.enter_context(_opening(path, counted=False))
        file.head.opened()
        yield container


@contextmanager
def _opening(path: Path, *, counted: bool = True) -> Iterator[tuple[Reader, Any]]:
    """Raises: Heavy, where marks of tags are counted; and as `opened`."""
    try:
        file = Reader(path, counted=counted)
    except OSError as exc:
        raise FileNotFound("The file can no longer be opened on the server; send it again.", field="file") from exc
    with file:
        head = file.peek(kinds.HEAD_BYTES)[: kinds.HEAD_BYTES]
        if not head:
            raise UnsupportedMedia("This file is empty; send a whole one.", field="file")
        if kinds.is_still_heif(head):
            raise _unreadable(path)
        with opened_stream(file, lambda exc: _unreadable(path, exc)) as container:
            yield file, container


def _unreadable(path: Path, exc: Exception | None = None) -> UnsupportedMedia:
    """Why a file cannot be read as audio or video, as far as it can be seen."""
    from media import pictures  # with Pillow, which recordings do not need

    if isinstance(exc, MemoryError):
        sentence = (
            f"This file claims to hold more than any recording does, such as more than {_MAX_STREAMS} tracks or a "
            "frame of gigabytes; it may be damaged. Convert it to mp3, wav or mp4 and send it again."
        )
    elif pictures.is_picture(path):
        sentence = "This is a picture, neither audio nor video; send it as `flrnc` to have it described."
    elif kinds.is_text(path):
        sentence = "This file holds text, neither audio nor video nor a picture; send the recording itself."
    else:
        sentence = (
            "This is no audio, video or picture that the server can read, or it is damaged or cut short: send a whole "
            "file in a common format, such as mp3, wav, m4a, flac, mp4, mkv, webm, jpg or png."
        )
    return UnsupportedMedia(sentence, field="file")


@contextmanager
def opened_stream(
    file: Any, refusal: Callable[[Exception], UnsupportedMedia], demuxer: str | None = None
) -> Iterator[Any]:
    """PyAV's container for what `file.read` gives; one without `seek` is read once, from its beginning.

    demuxer: one of `kinds.FORMATS`, where the format is known.
    Raises: refusal, when it cannot be opened, and for whatever FFmpeg fails at while it is open.
    """
    try:
        container = av.open(file, mode="r", format=demuxer, options=_OPTIONS, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as exc:
        raise_if_memory_ran_out(exc)
        raise refusal(exc) from exc
    with container:
        try:
            yield container
        except av.FFmpegError as exc:
            raise_if_memory_ran_out(exc)
            raise refusal(exc) from exc


def raise_if_memory_ran_out(exc: Exception) -> None:
    """Tell a file for which FFmpeg wanted too much memory from a machine that has none left.

    Raises: MemoryError, where it is the latter.
    """
    if isinstance(exc, MemoryError) and memory.ran_out():
        raise MemoryError from exc


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """A stream's packets, the last one empty; reads that fail are passed over."""
    failed = 0
    read = container.demux(stream)
    while failed < _DAMAGED_READS:
        try:
            packet = next(read)
        except StopIteration:
            return
        except MemoryError:  # the file told it to read gigabytes, so nobody knows where its next packet begins
            raise
        except (av.FFmpegError, IndexError):  # this read failed; the next may not
            failed += 1
            read = container.demux(stream)
            continue
        failed = 0
        yield packet


def duration_of(container: Any) -> float | None:
    """The container's duration in seconds, if it can be believed."""
    seconds = (container.duration or 0) / av.time_base
    return seconds if 0 < seconds <= _LONGEST_DURATION_SECONDS else None


def is_cover(stream: Any) -> bool:
    """An album's picture in an audio file."""
    return bool(stream.disposition & Disposition.attached_pic)
