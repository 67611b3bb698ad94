"""Looking through films: at least every `interval` seconds, by decoding as little as finds every change.

    packets ─▶ strides ─▶ keyframes at most `interval` apart: only those are decoded, and what lies between two that
                      │   differ, to find the frame where it turned
                      └▶ keyframes further apart: every frame is decoded, and scaled to a thumbnail
    looks ─▶ `media.scenes` ─▶ a picture for each stretch that looks alike

Memory holds thumbnails of one interval, its packets, and the few frames that may yet be kept. Times are those that
players show: seconds from the container's start. Pictures are as players show them: turned, and with square pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.stream import Discard
from av.video.reformatter import VideoReformatter
from PIL import Image

from contract.errors import NoVideo, TooLarge, UnsupportedMedia
from media import pictures
from media.container import MAX_FRAME_PIXELS, duration_of, is_cover, opened, packets, raise_if_memory_ran_out
from media.pictures import Picture
from media.scenes import CELLS, Look, Scene, Seen, scenes
from media.strides import Stride, from_a_keyframe, strides, time_of

MAX_SIDE = 1024
"""Pixels on the longer side of a film's pictures; the models look at less."""
_LEAST_SIDE = 4
"""A thumbnail's cell covers at least so many pixels of a frame, since fewer would not average noise out."""
_TURN_FRAMES = 16
_TURN_PIXELS = _TURN_FRAMES * 1920 * 1080
"""Other tasks have a turn after so many decoded frames, or pixels of them."""
_MOST_RECENT = 4096
"""Most thumbnails kept between two looks; if there are more, every second one is dropped."""
_SEEK_MARGIN = 1e-3
_STEPS_BACK = (2.0, 8.0, 32.0)
"""Seconds. Containers without an index find a keyframe near the time, not always before it."""


class Film(Protocol):
    """Something that moves. duration: seconds as the file claims, or None; end: seconds, known after the looks.

    position: how far it was looked through, in seconds.
    """

    duration: float | None
    end: float
    position: float

    def looks(self, interval: float, start: float = 0.0) -> Iterator[Look | None]:
        """Frames at most `interval` s apart where there are as many, the first at `start`; None to take turns."""


def watch(film: Film, interval: float, known_at: float | None = None) -> Iterator[Scene | None]:
    """A film's scenes; see `media.scenes.scenes`."""
    return scenes(film.looks(interval, known_at or 0.0), known_at)


@contextmanager
def film(path: Path, threads: int = 1) -> Iterator[Film]:
    """A video, or a picture that moves. threads: for decoding.

    Raises: UnsupportedMedia, NoVideo, TooLarge, FileNotFound; also while it is looked through.
    """
    if pictures.moves(path):
        yield _Flipbook(path)
        return
    with opened(path) as container:
        yield _Video(container, threads)


class _Grid:
    """Chooses the frames to look at: each is the last one within `interval` of the previous look."""

    def __init__(self, interval: float) -> None:
        self._interval = interval + _SEEK_MARGIN
        self._last: float | None = None
        self._recent: list[Seen] = []
        self._held: tuple[Seen, Callable[[], Picture]] | None = None

    @property
    def empty(self) -> bool:
        """Whether there was no look yet."""
        return self._last is None

    @property
    def newest(self) -> float:
        """When the last frame that was added is shown."""
        return self._recent[-1].time if self._recent else -1.0 if self._last is None else self._last

    def add(self, seen: Seen, picture: Callable[[], Picture]) -> Iterator[Look]:
        """The next frame; what is yielded is the one before it, or the film's first."""
        yield from self.due(seen.time)
        self._recent.append(seen)
        if len(self._recent) > _MOST_RECENT:
            del self._recent[:-1:2]
        self._held = seen, picture
        if self._last is None:
            yield from self.end()

    def due(self, time: float) -> Iterator[Look]:
        """The frame before one that is shown at `time`, if that would be too late for a look."""
        if self._last is not None and time - self._last > self._interval:
            yield from self.end()

    def end(self) -> Iterator[Look]:
        """The newest frame, if there was no look at it."""
        if self._held is not None:
            yield self.look(*self._held)

    def look(self, seen: Seen, picture: Callable[[], Picture], before: Iterable[Seen | None] = ()) -> Look:
        """before: frames since the last look that were not added."""
        recent = [*self._recent, *([] if self._held and self._held[0] is seen else [seen])]
        self._last, self._recent, self._held = seen.time, [], None

        def since() -> Iterator[Seen | None]:
            yield from before
            yield from recent

        return Look(seen.time, seen.thumb, picture, since)


class _Flipbook:
    """An animated GIF, WebP or PNG."""

    def __init__(self, path: Path) -> None:
        self.duration: float | None = None
        self.end = self.position = 0.0
        self._path = path

    def looks(self, interval: float, start: float = 0.0) -> Iterator[Look | None]:
        grid = _Grid(interval)
        for shown in pictures.frames(self._path):
            self.position, self.end = shown.start, shown.start + shown.length
            if shown.start >= start - _SEEK_MARGIN:
                image = shown.picture.image
                small = image.resize(_thumb_size(*image.size), Image.Resampling.BOX)
                yield from grid.add(Seen(shown.start, np.asarray(small)), partial(_as_it_is, shown.picture))
            yield None
        yield from grid.end()


class _Video:
    """The pictures of a video file: the stream that players choose."""

    def __init__(self, container: Any, threads: int) -> None:
        self._container = container
        self._stream = _chosen(container)
        self._decoder = self._stream.codec_context
        self._decoder.thread_type = "AUTO"
        self._decoder.thread_count = threads
        self._decoder.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        self._origin = (container.start_time or 0) / av.time_base
        self._thumb = _thumb_size(self._decoder.width, self._decoder.height)
        self._turn = max(1, min(_TURN_FRAMES, _TURN_PIXELS // (self._decoder.width * self._decoder.height)))
        self._scaler = VideoReformatter()
        self._unread: list[Any] = []  # packets since the last look; none is decoded yet
        self._following = False  # whether the decoder has had every packet up to now
        self.duration = duration_of(container)
        self.end = (self.duration or 0.0) if container.streams.audio else 0.0
        self.position = 0.0

    def looks(self, interval: float, start: float = 0.0) -> Iterator[Look | None]:
        if start:
            self._seek(start)
        grid = _Grid(interval)
        for stride in strides(packets(self._container, self._stream), interval):
            if stride.whole:
                yield from self._follow(stride.packets, grid, start)
            else:
                yield from self._glance(stride, grid, start)
            yield None
        yield from self._drain(grid, start)
        yield from grid.end()
        if grid.empty and not start:
            raise UnsupportedMedia(
                "The pictures in this file cannot be decoded: it is damaged, cut short or has no frames. "
                "Convert it to mp4 and send it again.",
                field="file",
            )

    def _glance(self, stride: Stride, grid: _Grid, start: float) -> Iterator[Look | None]:
        """Look at the stride's first frame, a keyframe, and leave the rest until it turns out to matter."""
        yield from self._drain(grid, start)
        before, self._unread = self._unread, stride.packets
        self._decoder.flush_buffers()
        for frame in [*self._decoded(stride.packets[0]), *self._decoded(None)][:1]:
            time = self._time(frame)
            if time > max(start - _SEEK_MARGIN, grid.newest):
                yield from grid.due(time)
                between = self._reread(before, grid.newest, time)
                yield grid.look(self._seen(frame), partial(self._picture, frame), between)
        self._decoder.flush_buffers()

    def _reread(self, held: list[Any], after: float, until: float) -> Iterator[Seen | None]:
        """Every frame between two keyframes that were looked at."""
        self._decoder.flush_buffers()
        for number, packet in enumerate([*held, None]):
            for frame in self._decoded(packet):
                if after < self._time(frame) < until:
                    yield self._seen(frame)
            if number % self._turn == 0:
                yield None
        self._decoder.flush_buffers()

    def _follow(self, read: list[Any], grid: _Grid, start: float) -> Iterator[Look | None]:
        """Decode every frame."""
        if not self._following:
            self._decoder.flush_buffers()
            self._following, read, self._unread = True, [*self._unread, *read], []
        for number, packet in enumerate(read, 1):
            yield from self._added(self._decoded(packet), grid, start)
            if number % self._turn == 0:
                yield None

    def _drain(self, grid: _Grid, start: float) -> Iterator[Look | None]:
        """The frames that the decoder still has."""
        if self._following:
            self._following = False
            yield from self._added(self._decoded(None), grid, start)

    def _added(self, frames: Iterable[Any], grid: _Grid, start: float) -> Iterator[Look]:
        for frame in frames:
            if self._time(frame) > max(start - _SEEK_MARGIN, grid.newest):
                yield from grid.add(self._seen(frame), partial(self._picture, frame))

    def _decoded(self, packet: Any) -> list[Any]:
        """A packet's frames, without those that are damaged. packet: None for those that the decoder holds back."""
        try:
            return [frame for frame in self._decoder.decode(packet) if not frame.is_corrupt and frame.pts is not None]
        except av.FFmpegError as exc:  # a damaged packet
            raise_if_memory_ran_out(exc)
            return []

    def _seek(self, start: float) -> None:
        """To a keyframe at or before `start`, or to the beginning."""
        for time in (start, *(start - back for back in _STEPS_BACK if back < start), 0.0, -_STEPS_BACK[-1]):
            with suppress(av.FFmpegError):  # some containers know no time before their first
                self._go_to(time)
                if (key := self._next_key()) is not None and key <= start + _SEEK_MARGIN:
                    self._go_to(time)
                    return

    def _go_to(self, time: float) -> None:
        self._container.seek(round((time + self._origin) / self._stream.time_base), stream=self._stream)

    def _next_key(self) -> float | None:
        """The time of the next keyframe."""
        first = next(iter(from_a_keyframe(packets(self._container, self._stream))), None)
        return None if first is None else time_of(first) - self._origin

    def _time(self, frame: Any) -> float:
        time: float = max(0.0, float(frame.pts * self._stream.time_base) - self._origin)
        return time

    def _seen(self, frame: Any) -> Seen:
        width, height = self._thumb
        small = self._scaler.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
        self.position = time = self._time(frame)
        length = float((frame.duration or 0) * self._stream.time_base) or 1 / float(self._stream.average_rate or 25)
        self.end = max(self.end, time + min(length, 60.0))
        return Seen(time, small.to_ndarray().astype(np.uint8, copy=False))

    def _picture(self, frame: Any) -> Picture:
        """Square pixels, upright, at most MAX_SIDE."""
        aspect = float(self._stream.sample_aspect_ratio or 1)
        aspect = aspect if 0.1 <= aspect <= 10 else 1.0
        size = round(frame.width * aspect), frame.height
        scale = min(1.0, MAX_SIDE / max(size))
        width, height = (max(1, round(side * scale)) for side in size)
        flat = frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
        turns = round(frame.rotation / 90) % 4  # counterclockwise
        upright = np.ascontiguousarray(np.rot90(flat, turns))
        return Picture(Image.fromarray(upright), size[::-1] if turns % 2 else size)


def _as_it_is(picture: Picture) -> Picture:
    return picture


def _chosen(container: Any) -> Any:
    """The stream that players choose. Raises: NoVideo, UnsupportedMedia, TooLarge."""
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    if not streams:
        raise NoVideo("This file has no pictures; send an image or a video.", field="file")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None or not (stream.codec_context.width and stream.codec_context.height):
        raise UnsupportedMedia(
            "The pictures in this file are in a format that the server cannot decode, or larger than "
            f"{MAX_FRAME_PIXELS // 1_000_000} million pixels; convert it to a smaller mp4 and send it again.",
            field="file",
        )
    if stream.codec_context.width * stream.codec_context.height > MAX_FRAME_PIXELS:
        raise TooLarge(
            f"The frames of this video have more than {MAX_FRAME_PIXELS // 1_000_000} million pixels; send a smaller "
            "one.",
            field="file",
        )
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all  # the demuxer need not read it from disk
    return stream


def _thumb_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of a frame's thumbnail."""
    scale = min((CELLS / (width * height)) ** 0.5, 1 / _LEAST_SIDE)
    return max(1, round(width * scale)), max(1, round(height * scale))
