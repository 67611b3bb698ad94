"""What Florence may be asked, and what its operator may set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from contract.messages import FileRef
from workers.base import ModelSettings, Params
from workers.florence import prompts
from workers.florence import weights as florence_weights

Prompt = Literal[
    "<CAPTION>",
    "<DETAILED_CAPTION>",
    "<MORE_DETAILED_CAPTION>",
    "<OD>",
    "<DENSE_REGION_CAPTION>",
    "<REGION_PROPOSAL>",
    "<OCR>",
    "<OCR_WITH_REGION>",
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "<REFERRING_EXPRESSION_SEGMENTATION>",
    "<OPEN_VOCABULARY_DETECTION>",
]


class FlorenceSettings(ModelSettings):
    model: str = Field(
        florence_weights.DEFAULT,
        min_length=1,
        alias=florence_weights.SETTING,
        description="Florence-2 model: a hub id (Microsoft's or a transformers one) or a local folder; `none`: off",
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=256,
        description="pictures that Florence looks at at once; default: 8, on a GPU as its memory allows, at most 32",
    )
    num_beams: int | None = Field(None, ge=1, le=20, description="beams of its search; default: as the model says")
    max_new_tokens: int | None = Field(None, ge=1, le=4096, description="longest answer; default: as the model says")
    no_repeat_ngram_size: int | None = Field(
        None, ge=0, le=20, description="so many words are not said twice, 0 allows it; default: as the model says"
    )


class FlorenceParams(Params):
    file: FileRef = Field(description="image or video")
    prompt: Prompt = Field("<CAPTION>", description="what to do, a task of Florence-2")
    text: str | None = Field(
        None, max_length=1000, validate_default=True, description="for tasks that look for something: what"
    )
    interval: float = Field(1.0, ge=0.1, le=3600, description="videos: seconds between looks")
    max_frames: int | None = Field(None, ge=1, le=1_000_000, description="videos: most pictures to caption")
    only: Literal["image", "video"] | None = Field(None, description="refuse a file of the other kind")

    @field_validator("text")
    @classmethod
    def _fits_the_prompt(cls, text: str | None, info: ValidationInfo) -> str | None:
        prompt = prompts.PROMPTS.get(info.data.get("prompt", ""))
        if prompt is None:  # it is wrong, which is said of itself
            return text
        if prompt.takes_text and not (text and text.strip()):
            raise PydanticCustomError("text_missing", "this prompt needs a text that says what to look for")
        if text is not None and not prompt.takes_text:
            raise PydanticCustomError("text_unused", "this prompt takes no text")
        if text is not None and any(mark in text for mark in "<>"):
            raise PydanticCustomError("text_marks", "should not contain < or >")
        return text and text.strip()
