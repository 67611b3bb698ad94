"""Where a model may hold files is found in its types, whatever its fields are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, BeforeValidator, Field
from typing_extensions import TypeAliasType, TypedDict

from contract.messages import FileRef
from contract.params import Params, file_fields

Alias = TypeAliasType("Alias", list[FileRef])


class Voice(Params):
    name: str
    audio: FileRef


class Tree(BaseModel):
    """Holds itself."""

    branches: list[Tree] = Field(default_factory=list)
    label: str = ""


class Archive(Tree):
    file: FileRef | None = None
    inside: list[Archive] = Field(default_factory=list)


class Sound(TypedDict):
    sound: NotRequired[FileRef]


@dataclass
class Shot:
    picture: FileRef | str


class Everything(BaseModel):
    plain: FileRef
    optional: FileRef | None = None
    listed: list[FileRef] | None = None
    paired: tuple[int, FileRef]
    mapped: dict[str, list[FileRef]]
    either: str | Voice
    annotated: Annotated[list[Annotated[Voice, BeforeValidator(lambda value: value)]], Field(min_length=1)]
    typed: Sound
    shots: list[Shot]
    alias: Alias
    archive: Archive

    text: str
    texts: list[str] | None = None
    anything: Any = None
    word: Literal["file", "path"] = "file"
    numbers: dict[str, float]
    tree: Tree


def test_fields_that_hold_a_file_anywhere_within_are_found() -> None:
    expected = "plain optional listed paired mapped either annotated typed shots alias archive"
    assert file_fields(Everything) == set(expected.split())


def test_a_model_that_holds_itself_is_looked_into_once() -> None:
    assert file_fields(Tree) == set()
    assert file_fields(Archive) == {"file", "inside"}
