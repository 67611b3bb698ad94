"""The shapes of the shipped workers' results, for the documents and for who reads them; results are plain dicts."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Seconds = Annotated[float, Field(ge=0)]
Box = Annotated[list[float], Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels")]
Points = Annotated[list[float], Field(description="x, y, x, y … in pixels")]


class Word(TypedDict):
    word: str
    start: Seconds
    end: Seconds
    probability: Annotated[float, Field(ge=0, le=1)]


class Chunk(TypedDict):
    start: Seconds
    end: Seconds
    text: str
    language: NotRequired[Annotated[str | None, Field(description="with `multilingual`")]]
    words: NotRequired[Annotated[list[Word], Field(description="with `word_timestamps`")]]


class Transcript(TypedDict):
    """The result of `whisp` and `listen`."""

    text: str
    chunks: list[Chunk]
    language: str | None
    duration: Seconds
    exports: NotRequired[Annotated[dict[str, str], Field(description="with `formats`: the text of each")]]
    reason: NotRequired[Annotated[str, Field(description="why there is no text")]]


class Region(TypedDict):
    label: str
    box: Box
    quad: NotRequired[Points]
    polygon: NotRequired[Points]


class Caption(TypedDict):
    text: str
    regions: NotRequired[Annotated[list[Region], Field(description="of prompts that name places")]]


class Segment(Caption):
    start: Seconds
    end: Seconds


class Picture(TypedDict):
    transcribe_img: Caption


class Film(TypedDict):
    """Its segments cover the film without gap or overlap."""

    transcribe_video: list[Segment]


class Speech(TypedDict):
    fish: Annotated[str, Field(description="path of the wav file on the server")]
    audio_data: NotRequired[
        Annotated[
            list[float] | str,
            Field(description="samples for `list`; else the file: binary on Socket.IO, base64 over HTTP"),
        ]
    ]
    sample_rate: int
    duration: Seconds
    cut: NotRequired[Annotated[bool, Field(description="a piece did not end within `max_new_tokens`")]]


class SavedVoice(TypedDict):
    reference_id: str
    status: Literal["success"]
    message: str
    text: str
    duration: Seconds
    known: NotRequired[Annotated[bool, Field(description="the same recording had been saved before")]]


class Playlist(TypedDict):
    title: str | None
    count: int


class Entry(TypedDict):
    url: str | None
    fulltitle: str | None


class Download(TypedDict):
    uploader: str | None
    duration: float | None
    view_count: int | None
    like_count: int | None
    fulltitle: str | None
    description: str | None
    file: Annotated[str | None, Field(description="path on the server; null for `info`")]
    url: str
    dislike_count: NotRequired[int]
    repost_count: NotRequired[int]
    comment_count: NotRequired[int]
    average_rating: NotRequired[float]
    age_limit: NotRequired[int]
    media_type: NotRequired[str]
    tags: NotRequired[list[str]]
    categories: NotRequired[list[str]]
    playlist: NotRequired[Playlist]
    entries: NotRequired[list[Entry]]
