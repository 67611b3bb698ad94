"""What a client may ask of Whisper."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from contract.messages import FileRef
from workers.base import Params
from workers.whisper.languages import LONGEST, code_of


def _language(given: object) -> object:
    if not isinstance(given, str) or len(given) > LONGEST:
        return given
    try:
        return code_of(given)
    except LookupError as exc:
        raise PydanticCustomError(
            "language", "should be a language that Whisper knows, such as en, es or ja; or auto, to detect it"
        ) from exc


Language = Annotated[
    Annotated[str, Field(max_length=LONGEST)] | None,
    BeforeValidator(_language),
    Field(json_schema_extra={"examples": ["en", "pt-BR", "Japanese", "auto"]}),
]

_MOST_TRACKS, _LONGEST_TRACK = 1000, 64


def _track(given: object) -> str | None:
    """A track's number or language, as text; an empty one, as forms send it, is none."""
    text = str(given)[: _LONGEST_TRACK + 1].strip() if isinstance(given, (int, str)) else ""
    number = int(text) if text.lstrip("-").isdecimal() else 1
    wrong = len(text) > _LONGEST_TRACK or not 1 <= number <= _MOST_TRACKS
    if wrong or isinstance(given, bool) or not isinstance(given, (int, str, NoneType)):
        raise PydanticCustomError("track", "should be a number from 1 on, or a language such as en")
    return text or None


_TrackInput = Annotated[int, Field(ge=1, le=_MOST_TRACKS)] | Annotated[str, Field(max_length=_LONGEST_TRACK)] | None
Track = Annotated[str | None, BeforeValidator(_track, json_schema_input_type=_TrackInput)]
Format = Literal["srt", "vtt", "ass", "txt", "tsv"]
Hint = Annotated[str, Field(max_length=2000)]
"""A text of which Whisper keeps the last 223 tokens."""


class WhisperParams(Params):
    file: FileRef = Field(description="audio or video")
    language: Language = Field(
        None, description="spoken language: ISO 639-1, or any tag (BCP 47) or name of it; default and `auto`: detected"
    )
    task: Literal["transcribe", "translate"] = Field("transcribe", description="`translate`: into English")
    word_timestamps: bool = Field(False, description="add `words` to each chunk")
    initial_prompt: Hint | None = Field(None, description="text whose spelling and style to follow, in every piece")
    hotwords: Hint | None = Field(None, description="words that are likely to occur")
    vad: bool = Field(True, description="leave out what is not speech")
    multilingual: bool = Field(
        False, description="the language may change: detect it again and again; chunks then carry `language`"
    )
    track: Track = Field(
        None, description="which audio track: its number from 1 on, or its language; default: the main one"
    )
    formats: list[Format] | None = Field(None, description="add `exports`: the transcript as text of these formats")
    missing_audio: Literal["error", "empty"] = Field(
        "error", description="a video without sound: `NO_AUDIO`, or an empty transcript that says so in `reason`"
    )

    @property
    def needs_words(self) -> bool:
        """Whether chunks are to have `words`: asked for, or needed to cut subtitles."""
        return self.word_timestamps or not {"srt", "vtt", "ass"}.isdisjoint(self.formats or ())


class WhisperTask(WhisperParams):
    """Of a task; `listen` sets these. format, sample_rate: what `file` holds, while it is still being sent."""

    format: Literal["pcm_s16le", "pcm_f32le", "webm", "ogg", "mp4"] | None = None
    sample_rate: int = 16_000
