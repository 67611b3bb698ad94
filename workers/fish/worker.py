"""`fish`: texts spoken in a voice, by fish-speech 1.5 or OpenAudio S1; and the voices to speak in.

    text ─▶ markup ─▶ sentences ─────┐
    voice ─▶ voice_codes ────────────┴▶ piece by piece: prompt ─▶ Saying ─▶ a unit for each frame ─▶ delivery
    reference alone ─▶ checked, encoded ─▶ Voices.save

Each open task has one row of the loop, so texts of different requests share every batch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from contract import environment, results
from contract.errors import InvalidInput, TextTooLong
from contract.folders import Folders
from contract.messages import FileRef
from storage.voices import Voices
from workers.base import Confinement, Context, Run, Worker
from workers.fish.params import ADVICE, LICENCE, FishParams, FishSettings, FishTask
from workers.runtime import hub
from workers.runtime.torch_device import memory_used, torch_device

if TYPE_CHECKING:
    from torch import Tensor

    from workers.fish.prompt import Spoken
    from workers.fish.sentences import Piece
    from workers.fish.speaking import Manner
    from workers.fish.synthesis import Saying
    from workers.fish.voice_codes import Unencoded

log = structlog.get_logger()


class Fish(Worker):
    """Speaks texts in saved and in given voices, and saves voices."""

    name = "fish"
    message_type = "fish"
    answer = "$fish"
    Params = FishParams
    Result = results.Speech | results.SavedVoice
    TaskParams = FishTask
    Settings = FishSettings
    example = {"text": "Hello.", "max_new_tokens": 32, "seed": 1}

    def __init__(self, settings: FishSettings, folders: Folders) -> None:
        super().__init__(settings, folders)
        self.batch = settings.batch
        self._voices = Voices(folders.voices)

    @classmethod
    def places(cls, settings: FishSettings) -> int:
        """One task for each row of the loop."""
        return settings.batch

    @classmethod
    def pull(cls, settings: FishSettings, folders: Folders, say: hub.Say) -> None:
        from workers.fish import published

        published.require_package()
        if say:
            say(LICENCE)
        published.locate(settings.model, folders, say)

    @classmethod
    def confinement(cls, settings: FishSettings, folders: Folders) -> Confinement:
        compiled = [_compiled(folders)] if settings.acceleration == "compile" else []
        return Confinement(writes=(folders.speech, folders.voices, *compiled))

    def load(self) -> dict[str, Any]:
        import torch

        from workers.fish import checkpoint, codec_files, published, synthesis, voice_codes
        from workers.fish.decoding import RowDecoder
        from workers.fish.generate import Loop
        from workers.fish.graphs import capture_for

        published.require_package()
        found = published.locate(self.settings.model, self.folders)
        torch.set_num_threads(max(1, self.settings.threads))
        with ADVICE.loading():
            self._device = torch_device(self.settings.device, self.name)
            on_cuda = self._device.type == "cuda"
            dtype = getattr(torch, _chosen(self.settings.dtype, "bfloat16" if on_cuda else "float32"))
            acceleration: Any = _chosen(self.settings.acceleration, "graphs" if on_cuda else "none")
            model = checkpoint.load(found, self._device, dtype)
            self._codec = codec_files.load_codec(found.path, str(self._device))
            rows, kept = self.settings.batch, self.settings.voices_cache_mb
            if acceleration == "compile":
                environment.tell(TORCHINDUCTOR_CACHE_DIR=str(_compiled(self.folders)))
            loop = Loop(model, rows, self.settings.length, acceleration, kept)
            graphs = capture_for("graphs" if on_cuda and acceleration != "none" else "none", self._device)
            decoder = RowDecoder(self._codec, rows, synthesis.CUDA_BLOCKS, graphs)
            if acceleration == "graphs":
                loop.prepare()
            decoder.prepare()
        self._synthesis = synthesis.Synthesis(model, self._codec, loop, decoder)
        seconds = self.settings.voices_cache_minutes * 60
        codec_file = codec_files.find_codec(found.path)
        self._voice_codes = voice_codes.VoiceCodes(self._codec, codec_file, self.settings.voices_cache_mb, seconds)
        self._preload()
        log.info("licence_of_weights", worker=self.name, licence=LICENCE)
        return {"device": str(self._device), "model": hub.shown(self.settings.model)}

    def info(self) -> dict[str, Any]:
        return {"voices": self._voice_codes.info(), **memory_used(self._device)}

    def run(self, params: FishTask, ctx: Context) -> Run:
        """Result: ``{"fish", "audio_data", "sample_rate", "duration"}``, of a saved voice ``{"reference_id", …}``."""
        if params.check and params.reference_audio is not None:
            return (yield from self._look_at(params.reference_audio, params.check, ctx))
        if params.text is None:
            return (yield from self._save(params, ctx))
        return (yield from self._speak(params.text, params, ctx))

    # Voices.

    def _look_at(self, audio: FileRef, field: str, ctx: Context) -> Run:
        """Check a recording by encoding it; its codes are then in memory when it is spoken with."""
        codes = yield from self._encoded(self._voice_codes.of_file(ctx.local(audio), field))
        return {"duration": round(codes.shape[1] / self._codec.frame_rate, 3)}

    def _save(self, params: FishTask, ctx: Context) -> Run:
        from media.encode import as_int16
        from workers.fish.voice_codes import Unencoded

        [(field, reference), *_] = params.recordings
        path = ctx.local(reference.audio)
        known = self._voice_codes.of_file(path, field)
        sound = known.sound if isinstance(known, Unencoded) else self._voice_codes.read(path, field)
        codes = yield from self._encoded(known)
        rate, text, began = self._codec.sample_rate, reference.text or "", time.time()
        voice = self._voices.save(ctx.owner, as_int16(sound), rate, text, params.name, params.description)
        self._voice_codes.keep(voice, codes)
        return {
            "reference_id": voice.reference_id,
            "status": "success",
            "message": "Reference processed successfully",
            "text": voice.text,
            "duration": round(voice.duration, 3),
            **({"known": True} if voice.created_at < began else {}),
        }

    def _spoken(self, params: FishTask, ctx: Context) -> Run:
        """The voice wanted, as a list of `prompt.Spoken`."""
        from workers.fish.prompt import Spoken

        asked: list[tuple[str, Tensor | Unencoded]] = []
        if params.reference_id is not None:
            voice = self._voices.find(params.reference_id, ctx.owner)
            asked.append((voice.text, self._voice_codes.of_voice(voice)))
        for field, reference in params.recordings:
            asked.append((reference.text or "", self._voice_codes.of_file(ctx.local(reference.audio), field)))
        found = []
        for text, known in asked:
            found.append(Spoken(text, (yield from self._encoded(known))))
        return found

    def _encoded(self, known: Tensor | Unencoded) -> Run:
        from workers.fish.voice_codes import Unencoded

        return (yield known) if isinstance(known, Unencoded) else known

    def _preload(self) -> None:
        from workers.fish.voice_codes import Unencoded

        for reference_id in filter(None, map(str.strip, self.settings.voices_preload.split(","))):
            voice = self._voices.anyones(reference_id)
            if voice is None:
                log.warning("voice_not_preloaded", reference_id=reference_id)
                continue
            known = self._voice_codes.of_voice(voice)
            if isinstance(known, Unencoded):
                self._voice_codes.encode(known)

    # Speaking.

    def _speak(self, text: str, params: FishTask, ctx: Context) -> Run:
        from workers.fish import speaking
        from workers.fish.delivery import Delivery

        pieces = self._pieces(text, params)
        spoken: list[Spoken] = yield from self._spoken(params, ctx)
        longest = int(speaking.VOICE_SECONDS * self._codec.frame_rate)
        voice = speaking.Voice(spoken, min(longest, self._synthesis.length // 4))
        speaker = speaking.Speaker(self._synthesis, voice, _manner(params, ctx), ctx)
        speaker.check(pieces)
        progress = speaking.Progress(ctx, pieces)
        with Delivery(ctx, self.folders, self._codec.sample_rate, params.stream, params.audio_format) as delivery:
            cut = yield from speaker.speak(pieces, delivery, progress)
            answer = delivery.finish()
        return {**answer, "cut": True} if cut else answer

    def _pieces(self, text: str, params: FishTask) -> Sequence[Piece]:
        from workers.fish.markup import read_aloud
        from workers.fish.sentences import spoken_pieces

        if len(text) > self.settings.max_text:
            raise TextTooLong(
                f"The text has {len(text)} characters and this server says {self.settings.max_text} at once; send it "
                "in parts.",
                field="text",
                limit=self.settings.max_text,
            )
        pieces = spoken_pieces(read_aloud(text) if params.markup == "auto" else text, params.chunk_length)
        if not pieces:
            raise InvalidInput(
                "The text holds nothing that can be spoken: no letter and no number, but signs, emoji or markup.",
                field="text",
            )
        return pieces

    def key(self, unit: Saying | Unencoded) -> Hashable:
        """Frames share a batch; recordings are encoded one by one."""
        from workers.fish.synthesis import Saying

        return None if isinstance(unit, Saying) else id(unit)

    def fits(self, batch: list[Any], unit: Any) -> bool:
        """A text that asks ahead has two frames waiting, of which one can be made at once."""
        return unit not in batch

    def forward(self, units: list[Any]) -> list[Any]:
        from workers.fish.voice_codes import Unencoded

        if isinstance(units[0], Unencoded):
            return [self._synthesis.alone(self._voice_codes.encode, unit) for unit in units]
        results = self._synthesis.advance(units)
        self.batch = self._synthesis.most
        return results


def _manner(params: FishTask, ctx: Context) -> Manner:
    """A seed that nobody gave is the same in every attempt."""
    from workers.fish.sampling import Sampling
    from workers.fish.speaking import Manner

    seed = params.seed
    if seed is None:
        seed = int.from_bytes(hashlib.sha256(ctx.key.encode()).digest()[:7])
    sampling = Sampling(params.temperature, params.top_p, params.repetition_penalty, seed)
    return Manner(sampling, params.max_new_tokens)


def _compiled(folders: Folders) -> Path:
    """Where compiled steps are kept from one process to the next."""
    return folders.data / "compiled"


def _chosen(setting: str, auto: str) -> str:
    return auto if setting == "auto" else setting
