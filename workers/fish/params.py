"""What a client may ask of `fish`, and what an operator may set for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from contract.errors import InvalidInput
from contract.messages import FileRef
from workers.base import ModelSettings, Params
from workers.runtime.failing import Advice

SETTING = "AI_FISH_MODEL"
DEFAULT = "fishaudio/fish-speech-1.5"
LICENCE = (
    "The weights of fish-speech and of OpenAudio S1 are under CC-BY-NC-SA-4.0: not for commercial use. Who sells what "
    "they speak needs Fish Audio's permission."
)
ADVICE = Advice(
    worker="fish",
    model="speech",
    setting=SETTING,
    lower="FISH_BATCH or FISH_LENGTH",
    check=f"FISH_DEVICE, FISH_ACCELERATION and {SETTING}",
    pull="optivus models pull fish",
)


class FishSettings(ModelSettings):
    model: str = Field(
        DEFAULT,
        min_length=1,
        alias=SETTING,
        description="fish-speech 1.5 or OpenAudio S1: a hub id or a local folder; `none`: off",
    )
    batch: int = Field(
        4, ge=1, le=256, description="most texts that are spoken at once; each takes memory on the device"
    )
    length: int = Field(
        4096, ge=64, description="most tokens of a piece of text, its references and its speech together"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="numbers that the model computes in; `auto`: bfloat16 on CUDA, float32 on the CPU"
    )
    acceleration: Literal["auto", "none", "graphs", "compile"] = Field(
        "auto", description="`auto`: CUDA graphs on CUDA, none on the CPU; `compile`: torch.compile, slow to start"
    )
    max_text: int = Field(10_000, ge=1, description="characters of one text; beyond: `TEXT_TOO_LONG`")
    step_seconds: float = Field(
        300,
        gt=0,
        description="longest time of one step; a process silent for thrice as long is restarted (CPUs are slow)",
    )
    voices_preload: str = Field("", description="reference ids, separated by commas, to be in memory from the start")
    voices_cache_mb: float = Field(
        64,
        ge=0,
        description="encoded voices kept in memory, in MB (10 s have 14 kB); as much of what the model made of them",
    )
    voices_cache_minutes: float = Field(1440, gt=0, description="how long an encoded voice is kept in memory")


def _printable(text: str) -> str:
    """Without lone surrogates, which stand for nothing that could be said or kept."""
    return text.encode(errors="replace").decode()


Printable = AfterValidator(_printable)
Text = Annotated[str, Printable]
SaidText = Annotated[str, Field(max_length=5000), Printable]


class Reference(Params):
    audio: FileRef = Field(description="1 to 60 s of one person speaking")
    text: SaidText | None = Field(None, description="what is said in it; default: Whisper hears it")


def _as_reference(value: Any) -> Any:
    return {"audio": value} if isinstance(value, (str, bytes)) else value


AnyReference = Annotated[Reference, BeforeValidator(_as_reference, json_schema_input_type=FileRef | Reference)]


class FishParams(Params):
    """With `text`: speak. Without it, with `reference_audio`: save the voice."""

    text: Text | None = Field(None, description="what to say")
    reference_id: str | None = Field(None, description="the saved voice to say it in")
    references: list[AnyReference] = Field(
        [], max_length=10, description="recordings of the voice to say it in: files, or a file and what is said in it"
    )
    reference_audio: FileRef | None = Field(
        None, description="one such recording; without `text` it is saved, and the answer has its reference_id"
    )
    reference_text: SaidText | None = Field(None, description="what is said in it; default: Whisper hears it")
    name: Annotated[str, Field(max_length=200), Printable] | None = Field(None, description="of the voice to be saved")
    description: Annotated[str, Field(max_length=2000), Printable] | None = Field(None, description="of it, too")
    markup: Literal["auto", "none"] = Field(
        "auto", description="Markdown, tags and emoji of the text: read as people would, or, with `none`, as they stand"
    )
    stream: bool = Field(False, description="send `audio` events as the sound is made")
    audio_format: Literal["list", "wav", "pcm", "mp3", "opus", "none"] = Field(
        "list", description="`audio_data` of the answer: samples as numbers, a file's bytes, or nothing"
    )
    max_new_tokens: int = Field(1024, ge=1, le=8192, description="longest sound of a piece of text; 21.5 are a second")
    chunk_length: int = Field(200, ge=20, le=2000, description="longest piece of text that is said at once, in bytes")
    top_p: float = Field(0.7, gt=0, le=1, description="how much of what is likely may be said")
    repetition_penalty: float = Field(1.2, gt=0, lt=2, description="above 1: repeats itself less")
    temperature: float = Field(0.7, gt=0, lt=2, description="how freely it is said")
    seed: int | None = Field(None, ge=0, lt=2**63, description="the same seed and text are the same sound")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.text is not None and not self.text.strip():
            raise InvalidInput("The text is empty: send what is to be said.", field="text")
        if self.text is None and self.reference_audio is None:
            raise InvalidInput(
                "Send `text` to have it spoken, or `reference_audio`, best with `reference_text`, to save a voice.",
                field="text",
            )
        return self


class FishTask(FishParams):
    """Of a task; the plan sets these. transcripts: texts of the recordings that came without one. check: only see
    whether `reference_audio` can be used, which the client sent as this parameter.
    """

    transcripts: list[Text] = []
    check: str | None = None

    @property
    def recordings(self) -> list[tuple[str, Reference]]:
        """(field, recording) of all that are given, each with its text; `transcripts` fill the gaps, in order.

        Raises: InvalidInput where there are too few.
        """
        given = [("references", reference) for reference in self.references]
        if self.reference_audio is not None:
            given.insert(0, ("reference_audio", Reference(audio=self.reference_audio, text=self.reference_text)))
        heard = iter(self.transcripts)
        return [(field, _told(reference, field, heard)) for field, reference in given]


def _told(reference: Reference, field: str, heard: Iterator[str]) -> Reference:
    text = reference.text or next(heard, None)
    if text is None:
        raise InvalidInput("A reference needs its text here: send what is said in the recording.", field=field)
    if any(map(str.isalnum, text)):
        return reference.model_copy(update={"text": text})
    if reference.text:
        raise InvalidInput("The reference's text holds no word; send what is said in the recording.", field=field)
    raise InvalidInput("No words were understood in the reference; send its text with it.", field=field)
