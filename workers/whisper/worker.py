"""Speech to text with Whisper (CTranslate2): the `whisp` message.

    file ─▶ decode ─▶ pieces of at most 30 s, cut in silences ─▶ mel ─▶ forward() ─▶ chunks ─▶ partials
                                                                                └▶ checkpoint after each piece

Each piece is heard on its own, so pieces of different files share a batch and a lost process costs few pieces. A file's
pieces have one language, which the first of them decide together. The modules beside this one are its parts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import structlog
from pydantic import Field

from contract import results
from contract.errors import InvalidInput
from contract.folders import Folders
from workers.base import Confinement, Context, ModelSettings, Run, Worker
from workers.runtime import hub
from workers.runtime.failing import Advice
from workers.whisper import weights as whisper_weights
from workers.whisper.device import (
    check_cuda,
    compute_type,
    cores,
    free_memory,
    load_on,
    naming_library,
    pieces_that_fit,
    stays_on,
    write_once,
)
from workers.whisper.params import WhisperParams, WhisperTask
from workers.whisper.transcript import Transcript, silent
from workers.whisper.units import Evidence, Pass, Unit

if TYPE_CHECKING:
    from media.speech import Cut, Piece
    from workers.whisper.listening import Listening
    from workers.whisper.pieces import Heard, Hearing, Share


log = structlog.get_logger()

CPU_BATCH = 4
_RECORDING_SECONDS = 60.0
"""A CPU batch holds at most so much speech of one recording, because longer batches are no faster."""


class WhisperSettings(ModelSettings):
    model: str = Field(
        whisper_weights.DEFAULT,
        min_length=1,
        alias=whisper_weights.SETTING,
        description="Whisper model: a hub id (openai's, CTranslate2 or transformers) or a local folder; `none`: off",
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=256,
        alias="AI_WHISPER_BATCH_WORKER",
        description="pieces that Whisper transcribes at once; default: 4, on a GPU as many as its memory allows",
    )
    compute_type: str = Field(
        "auto",
        description="`auto` (float16 on CUDA, int8 on the CPU) or one of CTranslate2: `int8_float16` takes less memory",
    )
    step_seconds: float = Field(
        300,
        gt=0,
        description="longest time of one step; a process silent for thrice as long is restarted (CPUs are slow)",
    )
    beam_size: int = Field(5, ge=1, le=20, description="beams of Whisper's search; 1 is faster and a little worse")


_ADVICE = Advice(
    worker="whisper",
    model="Whisper",
    setting=whisper_weights.SETTING,
    lower="AI_WHISPER_BATCH_WORKER",
    check="WHISPER_DEVICE and WHISPER_COMPUTE_TYPE",
    pull="optivus models pull",
)


class Whisper(Worker):
    """Transcribes or translates the speech in a file."""

    name = "whisper"
    message_type = "whisp"
    answer = {"transcribe_audio": "$whisper"}
    Params = WhisperParams
    Result = results.Transcript
    TaskParams = WhisperTask
    Settings = WhisperSettings
    example = {"file": "examples/jfk.flac"}
    imports: ClassVar[tuple[str, ...]] = ("faster_whisper",)

    def __init__(self, settings: WhisperSettings, folders: Folders) -> None:
        super().__init__(settings, folders)
        self.batch = settings.batch or CPU_BATCH
        self._hearings: set[Hearing] = set()
        self._listeners: set[Listening] = set()
        """Recordings under way: sets, since threads begin and end them."""
        self._detectors = 1
        """Threads of the voice detector for one recording; on a CPU the model needs the cores."""

    @classmethod
    def pull(cls, settings: WhisperSettings, folders: Folders, say: hub.Say) -> None:
        whisper_weights.locate(settings.model, folders, say)

    @classmethod
    def confinement(cls, settings: WhisperSettings, folders: Folders) -> Confinement:
        return Confinement()

    def load(self) -> dict[str, Any]:
        from faster_whisper.vad import get_vad_model

        from media.audio import SAMPLE_RATE
        from workers.whisper.decoding import Decoder
        from workers.whisper.pace import Pace
        from workers.whisper.reading import Reader
        from workers.whisper.tokens import Tokenizers

        path = whisper_weights.locate(self.settings.model, self.folders)
        with _ADVICE.loading(), naming_library():
            warning = load_on(self.settings.device, lambda device, index: self._open(path, device, index))
        self._tokenizers = Tokenizers(self._model)
        self._reader = Reader(self._model, self._tokenizers)
        resident = stays_on(self._cuda)
        self._decoder = Decoder(self._model, self._tokenizers, self.settings.beam_size, resident=resident)
        self._quick = Decoder(self._model, self._tokenizers, beam_size=1, quick=True, resident=resident)
        self._pace = Pace(SAMPLE_RATE) if self._cuda is None else None
        if self._cuda is not None:
            self._detectors = max(1, self.settings.threads)
        if self.settings.batch is None and self._cuda is not None:
            self.batch = pieces_that_fit(self._width, free_memory(self._cuda), self.settings.beam_size)
            log.info("batch_chosen", worker=self.name, pieces=self.batch)
        get_vad_model()
        device = "cpu" if self._cuda is None else f"cuda:{self._cuda}"
        return {"device": device, "model": hub.shown(self.settings.model), **({"warning": warning} if warning else {})}

    def _open(self, path: Path, device: str, index: int) -> None:
        """The model on a device, where it has written its first token. Raises: ModelUnavailable; RuntimeError."""
        from faster_whisper import WhisperModel

        self._cuda = index if device == "cuda" else None
        if device == "cuda":
            check_cuda()
        before = free_memory(self._cuda)
        self._model = WhisperModel(
            str(path),
            device=device,
            device_index=index,
            compute_type=compute_type(self.settings.compute_type, device, index),
            cpu_threads=self.settings.threads or max(1, cores() // self.settings.replicas),
            local_files_only=True,
        )
        self._width = write_once(self._model)
        after = free_memory(self._cuda)
        self._taken = None if before is None or after is None else max(0, before - after)

    def run(self, params: WhisperParams, ctx: Context) -> Run:
        """Result: ``{"text", "chunks": [{"start", "end", "text"}], "language", "duration"}``, times in seconds."""
        from media.audio import SAMPLE_RATE, sound_of
        from media.container import probe
        from media.speech import CHANGE_GAP, JOIN_GAP, cut

        self._check_language(params.language)
        path = ctx.local(params.file)
        if isinstance(params, WhisperTask) and params.format:
            return (yield from self._listen(params, ctx, path))
        file = probe(path)
        if params.missing_audio == "empty" and file.has_video and not file.has_audio:
            return exported(silent(file.duration), params)
        transcript = Transcript(
            ctx,
            SAMPLE_RATE,
            params.language,
            file.duration,
            translated=params.task == "translate",
            multilingual=params.multilingual,
        )
        gap = CHANGE_GAP if params.multilingual else JOIN_GAP
        sound = sound_of(path, track=params.track)
        with closing(cut(sound, vad=params.vad, start=transcript.window, gap=gap, threads=self._detectors)) as windows:
            yield from self._hear(windows, transcript, params, ctx)
        return exported(transcript.result(), params)

    def _hear(self, windows: Iterator[Cut], transcript: Transcript, params: WhisperParams, ctx: Context) -> Run:
        from workers.whisper.pieces import Hearing

        def tell(window: Cut, piece: Piece | None, heard: Heard) -> None:
            if piece is None:
                transcript.pass_over(window)
            else:
                transcript.add(window, piece, heard, hearing.language)

        template = self._template(params, transcript.language)
        hearing = Hearing(template, self._share, self._reader, ctx.ask, tell)
        self._hearings.add(hearing)
        try:
            yield from hearing.run(transcript.unfinished(windows))
        finally:
            self._hearings.discard(hearing)

    def _listen(self, params: WhisperTask, ctx: Context, path: Path) -> Run:
        from workers.whisper.listening import Listening

        assert params.format, "its plan says what a recording is written in"
        template = self._template(params, params.language)
        listening = Listening(ctx, path, params.format, params.sample_rate, template, ear=self._reader)
        self._listeners.add(listening)
        try:
            return (yield from listening.run())
        finally:
            self._listeners.discard(listening)

    def _template(self, params: WhisperParams, language: str | None) -> Unit:
        """The unit that a recording's units are copies of, without audio. language: None while it is not known."""
        return Unit(
            None,
            language=None if params.multilingual else language,
            task=params.task,
            hints=self._tokenizers.hints(params.initial_prompt, params.hotwords),
            words=params.needs_words,
            evidence=Evidence({language: 1.0}, 1) if language else Evidence(),
            each=params.multilingual,
        )

    def _share(self) -> Share:
        """What one recording may have of the model now.

        On a CPU it is small, because others wait until a batch is over. On a GPU the recordings that are heard together
        keep two batches full: the one that is computed and the one that follows it.
        """
        from workers.whisper.pieces import Share

        if self._pace is None:
            return Share(-(-2 * self.batch // max(1, len(self._hearings))), math.inf, rolling=True)
        return Share(self.batch, _RECORDING_SECONDS, rolling=False)

    def key(self, unit: Unit) -> Hashable:
        """CTranslate2 wants all hints of a batch equally long, and one temperature."""
        from workers.whisper.reading import encoded_frames

        return len(unit.hints), unit.temperature, unit.quick, encoded_frames(unit)

    def info(self) -> dict[str, Any]:
        """The device's memory that loading took. CTranslate2 does not tell what it holds of it later."""
        return {} if self._taken is None else {"vram_used_gb": round(self._taken / 1e9, 2)}

    def fits(self, batch: list[Unit], unit: Unit) -> bool:
        return self._pace is None or self._pace.fits(batch, unit, live=bool(self._listeners))

    def forward(self, units: list[Unit]) -> list[Any]:
        """Compute a batch. One that does not fit into the device's memory is halved, and so are those that follow."""
        return _ADVICE.in_halves(self._heard, units, self._take_fewer)

    def _heard(self, units: Sequence[Unit]) -> list[Pass]:
        began = time.monotonic()
        passes = (self._quick if units[0].quick else self._decoder).hear([*units])
        if self._pace is not None and not units[0].quick:
            self._pace.measured([*units], time.monotonic() - began)
        return passes

    def _take_fewer(self, units: int) -> None:
        self.batch = min(self.batch, units)

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
