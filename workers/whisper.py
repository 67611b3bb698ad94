"""Speech to text with Whisper (CTranslate2): the `whisp` message.

    file ─▶ decode ─▶ pieces of at most 30 s, cut in silences ─▶ forward() ─▶ chunks ─▶ partials
                                                                         └▶ checkpoint after each piece

Each piece is heard on its own, so pieces of different files may share a batch and a lost process costs one piece. What
ties a file's pieces together is its language: the first one that Whisper is sure of is kept for the rest.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import structlog
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from media.files import Folders
from pipeline.errors import InvalidInput, ModelUnavailable, OutOfMemory
from pipeline.messages import FileRef
from workers import whisper_weights
from workers.base import Context, ModelSettings, Params, Run, Worker
from workers.transcript import Heard, Transcript, silent

if TYPE_CHECKING:
    from media.audio import Audio

log = structlog.get_logger()

_LANGUAGES = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja
jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq
sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh
"""
LANGUAGES = frozenset(_LANGUAGES.split())
"""Whisper's codes; `yue` is known to large-v3 only."""


def _known_language(code: str) -> str:
    if code not in LANGUAGES:
        raise PydanticCustomError("language", "should be a language code that Whisper knows, such as en, es or ja")
    return code


Language = Annotated[str, AfterValidator(_known_language), Field(json_schema_extra={"enum": sorted(LANGUAGES)})]
Format = Literal["srt", "vtt", "ass", "txt", "tsv"]
Hint = Annotated[str, Field(max_length=2000)]
"""Whisper keeps its last 223 tokens."""


class WhisperSettings(ModelSettings):
    model: str = Field(
        whisper_weights.DEFAULT,
        min_length=1,
        alias=whisper_weights.SETTING,
        description="Whisper model: a hub id (openai's, CTranslate2 or transformers) or a local folder",
    )
    batch: int = Field(
        4, ge=1, le=256, alias="AI_WHISPER_BATCH_WORKER", description="pieces that Whisper transcribes at once"
    )
    compute_type: str = Field(
        "auto", description="`auto` (float16 on CUDA, int8 on the CPU) or a compute type of CTranslate2"
    )
    step_seconds: float = Field(
        300, gt=0, description="longest honest step; a process silent for three is restarted (large models on CPUs)"
    )
    beam_size: int = Field(5, ge=1, le=20, description="beams of Whisper's search; 1 is faster and a little worse")


class WhisperParams(Params):
    file: FileRef = Field(description="audio or video")
    language: Language | None = Field(None, description="spoken language, ISO 639-1; default: detected")
    task: Literal["transcribe", "translate"] = Field("transcribe", description="`translate`: into English")
    word_timestamps: bool = Field(False, description="add `words` to each chunk")
    initial_prompt: Hint | None = Field(None, description="text whose spelling and style to follow, in every piece")
    hotwords: Hint | None = Field(None, description="words that are likely to occur")
    vad: bool = Field(True, description="leave out what is not speech")
    formats: list[Format] | None = Field(None, description="add `exports`: the transcript as text of these formats")
    missing_audio: Literal["error", "empty"] = Field(
        "error", description="a video without sound: `NO_AUDIO`, or an empty transcript that says so in `reason`"
    )

    @property
    def needs_words(self) -> bool:
        """Whether chunks are to have `words`: asked for, or needed to cut subtitles."""
        return self.word_timestamps or not {"srt", "vtt", "ass"}.isdisjoint(self.formats or ())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One piece to transcribe. audio: at most 30 s; empty: nothing to do but to give other tasks their turn."""

    audio: Audio | None
    language: str | None
    params: WhisperParams


class Whisper(Worker):
    """Transcribes or translates the speech in a file."""

    name = "whisper"
    message_type = "whisp"
    answer = {"transcribe_audio": "$whisper"}
    Params = WhisperParams
    Settings = WhisperSettings
    example = {"file": "examples/jfk.flac"}
    imports: ClassVar[tuple[str, ...]] = ("faster_whisper",)

    def __init__(self, settings: WhisperSettings, folders: Folders) -> None:
        super().__init__(settings, folders)
        self.batch = settings.batch

    @classmethod
    def pull(cls, settings: WhisperSettings, folders: Folders, say: Callable[[str], None]) -> None:
        whisper_weights.locate(settings.model, folders, say)

    def load(self) -> dict[str, Any]:
        from faster_whisper import WhisperModel
        from faster_whisper.vad import get_vad_model

        path = whisper_weights.locate(self.settings.model, self.folders)
        try:
            device, index = _device(self.settings.device)
            self._model = WhisperModel(
                str(path),
                device=device,
                device_index=index,
                compute_type=_compute_type(self.settings.compute_type, device, index),
                cpu_threads=self.settings.threads or max(1, _cores() // self.settings.replicas),
                local_files_only=True,
            )
        except MemoryError:
            raise
        except Exception as exc:
            raise _unloadable(exc) from exc
        get_vad_model()
        local = Path(self.settings.model).expanduser()
        shown = local.name if local.is_dir() else self.settings.model
        return {"device": f"cuda:{index}" if device == "cuda" else device, "model": shown}

    def run(self, params: WhisperParams, ctx: Context) -> Run:
        """Result: ``{"text", "chunks": [{"start", "end", "text"}], "language", "duration"}``, times in seconds."""
        from media.audio import SAMPLE_RATE, decode
        from media.container import probe
        from media.speech import cut

        self._check_language(params.language)
        path = ctx.local(params.file)
        file = probe(path)
        if params.missing_audio == "empty" and file.has_video and not file.has_audio:
            return exported(silent(file.duration), params)
        told = file.duration
        transcript = Transcript(ctx, SAMPLE_RATE, params.language, translated=params.task == "translate")
        heard = 0
        with closing(cut(decode(path), vad=params.vad, start=transcript.window)) as windows:
            for window in windows:
                heard = window.heard
                for piece in transcript.unfinished(window):
                    result = yield Unit(piece.audio, transcript.known_language, params)
                    transcript.add(window, piece, result)
                    ctx.progress(*transcript.progress(told))
                if not window.pieces:  # long silence, or the way to where an earlier attempt ended
                    transcript.pass_over(window)
                    ctx.progress(*transcript.progress(told))
                    yield Unit(None, None, params)
        return exported(transcript.result(heard / SAMPLE_RATE), params)

    def forward(self, units: list[Any]) -> list[Any]:
        return [self._transcribe(unit) for unit in units]

    def _transcribe(self, unit: Unit) -> Heard | Exception:
        if unit.audio is None:
            return Heard()
        try:
            segments, info = self._model.transcribe(
                unit.audio,
                language=unit.language,
                task=unit.params.task,
                beam_size=self.settings.beam_size,
                word_timestamps=unit.params.needs_words,
                initial_prompt=unit.params.initial_prompt or None,
                hotwords=unit.params.hotwords or None,
                condition_on_previous_text=False,
                vad_filter=False,
            )
            return Heard(info.language, info.language_probability, tuple(segments))
        except Exception as exc:  # noqa: BLE001 - a unit answers for itself, its batch goes on
            return _out_of_memory(exc) or exc

    def _check_language(self, language: str | None) -> None:
        if language is None:
            return
        if self._model.model.is_multilingual:
            known = self._model.hf_tokenizer.token_to_id(f"<|{language}|>") is not None
        else:
            known = language == "en"
        if not known:
            raise InvalidInput(f"The server's Whisper model does not know the language {language!r}.", field="language")


def exported(result: dict[str, Any], params: WhisperParams) -> dict[str, Any]:
    """A result with `exports` if they are asked for, and without words that only these needed."""
    from media.subtitles import exports

    if not params.formats:
        return result
    written = exports(result, params.formats, "en" if params.task == "translate" else result["language"])
    if not params.word_timestamps:
        result["chunks"] = [
            {key: value for key, value in chunk.items() if key != "words"} for chunk in result["chunks"]
        ]
    return {**result, "exports": written}


def _device(setting: str) -> tuple[str, int]:
    """`auto`, `cpu`, `cuda` or `cuda:N` → CTranslate2's device and its index."""
    import ctranslate2

    if setting == "auto":
        return ("cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu"), 0
    device, _, index = setting.partition(":")
    return device, int(index or 0)


def _compute_type(setting: str, device: str, index: int) -> str:
    """`auto`: float16 on CUDA, or what an older card has instead; int8 on the CPU."""
    import ctranslate2

    if setting != "auto":
        return setting
    if device == "cpu":
        return "int8"
    has = ctranslate2.get_supported_compute_types(device, index)
    return next((kind for kind in ("float16", "int8_float32") if kind in has), "default")


def _cores() -> int:
    """The cores that this process may use; in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _out_of_memory(exc: Exception) -> OutOfMemory | None:
    if "out of memory" not in str(exc).lower():
        return None
    error = OutOfMemory(
        "The model's device ran out of memory: lower AI_WHISPER_BATCH_WORKER, set AI_WHISPER_MODEL to a smaller model, "
        "or free the device."
    )
    error.__cause__ = exc
    return error


def _unloadable(exc: Exception) -> Exception:
    """CTranslate2 says in its own words that files are damaged or that a device or compute type is not there."""
    log.error("whisper_load_failed", error=str(exc))
    return _out_of_memory(exc) or ModelUnavailable(
        f"The Whisper model could not be loaded ({type(exc).__name__}); the server's log has the reason. "
        "Check WHISPER_DEVICE and WHISPER_COMPUTE_TYPE; if its files are damaged, delete them from DATA_DIR/models and "
        "run `optivus models pull`."
    )
