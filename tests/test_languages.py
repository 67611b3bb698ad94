"""What people call a language is Whisper's code for it; who says nothing lets it be detected."""

from __future__ import annotations

from typing import Any

import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES
from hypothesis import given, settings
from hypothesis import strategies as st
from langcodes import Language
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from contract.errors import InvalidInput
from contract.messages import FileRef
from contract.params import checked
from pipeline.listen import listen
from pipeline.plans import Plan
from pipeline.video import video
from workers.runtime.discovery import discover
from workers.whisper.languages import LANGUAGES, code_of
from workers.whisper.params import WhisperParams

FILE = FileRef("path", "talk.mp3")


def test_every_code_of_whispers_is_known() -> None:
    assert set(_LANGUAGE_CODES) == LANGUAGES


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        *(("en-US", "en"), ("EN", "en"), ("English", "en"), (" english ", "en"), ("en_US.UTF-8", "en"), ("eng", "en")),
        *(("zh-CN", "zh"), ("zh-Hant-TW", "zh"), ("cmn", "zh"), ("chi", "zh"), ("Mandarin", "zh"), ("中文", "zh")),
        *(("iw", "he"), ("in", "id"), ("ji", "yi"), ("mo", "ro"), ("jv", "jw"), ("nb-NO", "no"), ("fil", "tl")),
        *(("zh-yue", "yue"), ("Cantonese", "yue"), ("de-AT", "de"), ("gsw", "de"), ("sr-Latn-RS", "sr")),
        *(("Deutsch", "de"), ("FRANÇAIS", "fr"), ("日本語", "ja"), ("Русский", "ru"), ("Haitian  Creole", "ht")),
    ],
)
def test_a_tag_or_a_name_is_the_language(spelling: str, code: str) -> None:
    assert code_of(spelling) == code


@pytest.mark.parametrize("spelling", ["", "  ", "auto", "AUTO", "None", "null", "und"])
def test_nothing_and_auto_let_it_be_detected(spelling: str) -> None:
    assert code_of(spelling) is None


@pytest.mark.parametrize("spelling", ["xx", "Klingon", "tlh", "en/fr", "1", "?", "x-en", "C", "\x00", "en\ud800"])
def test_what_whisper_does_not_know_has_no_code(spelling: str) -> None:
    with pytest.raises(LookupError):
        code_of(spelling)


@pytest.mark.parametrize("name", sorted(TO_LANGUAGE_CODE))
def test_whispers_own_names_are_known(name: str) -> None:
    assert code_of(name.title()) == TO_LANGUAGE_CODE[name]


@pytest.mark.parametrize("code", sorted(LANGUAGES))
def test_a_language_in_its_own_words_and_with_a_country_is_known(code: str) -> None:
    assert code_of(f"{code.upper()}-US") == code
    assert code_of(Language.get(code).display_name("en")) == code
    assert code_of(code_of(code) or "") == code


@settings(max_examples=500)
@given(st.text(max_size=100))
def test_any_text_is_a_language_or_none(text: str) -> None:
    try:
        code = code_of(text)
    except LookupError:
        return
    assert code is None or code in LANGUAGES


@pytest.mark.parametrize("place", ["whisp", "listen", "video"])
def test_all_that_hear_take_it(place: str) -> None:
    """And refuse what stays unknown, with the field's name."""
    workers = discover()

    def bind(reference: str | bytes) -> FileRef:
        raise AssertionError(f"no file is asked for, but {reference!r}")

    plans: dict[str, Plan] = {"listen": listen(workers, 10), "video": video(workers, 10)}

    def language(spelling: str) -> Any:
        if place == "whisp":
            return checked(WhisperParams, {"file": FILE, "language": spelling}).language
        if place == "listen":
            return plans[place].parse({"language": spelling}, bind)[0]["language"]
        raw = {"urls": ["https://example.org/a.mp4"], "whisper": {"language": spelling}}
        return plans[place].parse(raw, bind)[0]["whisper"]["language"]

    assert [language(spelling) for spelling in ("English", "iw", "auto", "")] == ["en", "he", None, None]
    with pytest.raises(InvalidInput, match="language that Whisper knows"):
        language("Klingon")


def test_the_schema_says_so() -> None:
    schema = WhisperParams.model_json_schema()["properties"]["language"]
    assert "enum" not in str(schema)
    assert {option.get("type") for option in schema["anyOf"]} == {"string", "null"}
    assert all(code_of(example) in {*LANGUAGES, None} for example in schema["examples"])
