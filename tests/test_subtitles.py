# ruff: noqa: RUF001 - characters of many scripts that look alike are meant
"""Subtitles: how transcripts are cut into cues, as properties over any words, and what readers make of them."""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcwidth import iter_graphemes, wcswidth

from client.beside import FORMATS as OFFERED
from contract.messages import FileRef
from media.subtitles import FORMATS, GAP, LONGEST, SHORTEST, SPEED, Cue, cues, exports
from tests.drive import Recorder, drive, folders
from tests.recordings import EXAMPLE, write
from workers.whisper.params import Format, WhisperParams
from workers.whisper.worker import Whisper, WhisperSettings, exported

LINE = 42
PAUSE = 1500
CLOSING = set("。、！？」』）,.!?…ーっゃゅょッャュョ々ๆะาำ")
UNBREAKABLE = re.compile(f"[A-Za-z0-9「เ{''.join(sorted(CLOSING))}]{{16,}}")
"""May be wider than a line, and is then broken all the same."""
WORDS = {
    "en": [
        "I",
        "and",
        "the",
        "country,",
        "what",
        "you",
        "Yes.",
        "well-known",
        "naïve",
        "e\u0301te\u0301",
        "$5.50",
        "42",
    ],
    "ar": ["مرحبا", "بكم", "في", "هذا،", "البرنامج", "؟لماذا", "السَّلامُ", "عليكم."],
    "ja": [
        "今日",
        "は",
        "、",
        "ちょ",
        "っと",
        "ー",
        "コー",
        "ヒー",
        "を",
        "「",
        "飲む",
        "」",
        "。",
        "Op",
        "en",
        "AI",
        "が",
        "ぎゃ",
        "ゃ",
    ],
    "th": ["ฉัน", "รัก", "เ", "ธอ", "ำ", "มาก", "ๆ", "ประเทศไทย", "ก", "็", "5"],
    "hi": ["नमस्ते", "दुनिया", "है।", "क्षत्रिय", "में"],
    "zh": ["我们", "去", "，", "北京", "2", "0", "24", "年", "！"],
    "km": ["ភាសាខ្មែរជាភាសាផ្លូវការរបស់ប្រទេសកម្ពុជា", "សួស្តី"],
    None: [
        "👩\u200d👩\u200d👧",
        "👩\u200d",
        "👧",
        "🇩",
        "🇪",
        "👍🏽",
        "ok",
        "x" * 90,
        "}{\\an8}",
        "-->",
        "<i>",
        "&amp;",
        "\\new\\N",
    ],
}
UNSPACED = {"ja", "th", "zh"}


def words_of(texts: list[str], spaced: bool, times: list[tuple[int, int]], at: int) -> Iterator[dict[str, Any]]:
    """times: (milliseconds of silence before, of the word)."""
    for text, (pause, length) in zip(texts, times, strict=True):
        at += pause
        yield {"word": f"{' ' * spaced}{text}", "start": at / 1000, "end": (at + length) / 1000, "probability": 1.0}
        at += length


@st.composite
def transcripts(draw: st.DrawFn) -> tuple[list[dict[str, Any]], str | None]:
    language = draw(st.sampled_from(list(WORDS)))
    spaced = language not in UNSPACED
    chunks: list[dict[str, Any]] = []
    at = 0
    for texts in draw(st.lists(st.lists(st.sampled_from(WORDS[language]), min_size=1, max_size=50), max_size=4)):
        pauses = st.one_of(st.just(0), st.integers(0, 600), st.integers(0, 4000))
        lengths = st.one_of(st.integers(0, 700), st.just(0), st.integers(0, 12_000))
        times = draw(st.lists(st.tuples(pauses, lengths), min_size=len(texts), max_size=len(texts)))
        words = list(words_of(texts, spaced, times, at))
        text = "".join(word["word"] for word in words).strip()
        chunk: dict[str, Any] = {"start": words[0]["start"], "end": words[-1]["end"], "text": text}
        chunks.append({**chunk, "words": words} if draw(st.booleans()) or len(words) > 1 else chunk)
        at = round(words[-1]["end"] * 1000)
    return chunks, language


def spelled(text: str) -> str:
    return "".join(text.replace("\u2060", "").split())


def said(chunks: list[dict[str, Any]]) -> str:
    return spelled("".join(chunk["text"] for chunk in chunks))


def english(*words: tuple[str, float, float], start: float = 0.0) -> list[dict[str, Any]]:
    spoken = [{"word": f" {text}", "start": start + begin, "end": start + end} for text, begin, end in words]
    text = "".join(str(word["word"]) for word in spoken).strip()
    return [{"start": spoken[0]["start"], "end": spoken[-1]["end"], "text": text, "words": spoken}]


def evenly(text: str, seconds: float, start: float = 0.0) -> list[dict[str, Any]]:
    texts = text.split()
    step = seconds / len(texts)
    return english(*((word, index * step, (index + 1) * step) for index, word in enumerate(texts)), start=start)


def shown(found: list[Cue]) -> list[tuple[str, ...]]:
    return [cue.lines for cue in found]


# Properties


@settings(max_examples=80, deadline=None)
@given(transcripts())
def test_cues_are_short_readable_and_apart(transcript: tuple[list[dict[str, Any]], str | None]) -> None:
    """One or two lines of 42 columns, 0.8 to 7 s, in order, two frames apart; and all of the text, in order."""
    found = cues(*transcript)
    for cue in found:
        assert 1 <= len(cue.lines) <= 2
        assert all(line and line == line.strip() and wcswidth(line) <= LINE for line in cue.lines)
        assert SHORTEST <= cue.end - cue.start <= LONGEST
    for one, other in itertools.pairwise(found):
        assert other.start - one.end >= GAP
    assert spelled("".join(itertools.chain.from_iterable(shown(found)))) == said(transcript[0])


@settings(max_examples=80, deadline=None)
@given(transcripts())
def test_no_word_and_no_cluster_is_torn(transcript: tuple[list[dict[str, Any]], str | None]) -> None:
    chunks, language = transcript
    lines = list(itertools.chain.from_iterable(shown(cues(*transcript))))
    text = said(chunks)
    clusters = set(itertools.accumulate(map(len, iter_graphemes(text))))
    given_words = "".join(
        f" {word['word']}" for chunk in chunks for word in chunk.get("words", [{"word": chunk["text"]}])
    )
    whole = {*itertools.accumulate(len(word) for word in given_words.split())}
    at = 0
    for line, after in itertools.pairwise(lines):
        at += len(spelled(line))
        if all(wcswidth(word) <= LINE for word in text.split()) and language in {"en", "ar", "hi"}:
            assert at in whole
        if language in UNSPACED:
            assert at in clusters
        if language in UNSPACED and not UNBREAKABLE.search(text):
            assert after[0] not in CLOSING
            assert line[-1] not in "「"
            assert not (line[-1].isascii() and line[-1].isalnum() and after[0].isascii() and after[0].isalnum())
    for line in lines[1:]:
        assert not unicodedata.category(line[0]).startswith("M")
        assert line[0] != "\u200d"


@settings(max_examples=80, deadline=None)
@given(transcripts())
def test_readers_get_the_same_text_and_times_from_each_format(
    transcript: tuple[list[dict[str, Any]], str | None],
) -> None:
    """Whatever is said: arrows, tags, braces, backslashes, numbers."""
    found = cues(*transcript)
    texts = exports({"chunks": transcript[0]}, ["srt", "vtt", "ass"], transcript[1])
    for name, text in texts.items():
        file = pysubs2.SSAFile.from_string(text, format_=name, **({} if name == "ass" else {"keep_html_tags": True}))
        assert len(file) == len(found)
        for event, cue in zip(file, found, strict=True):
            plain = html.unescape(event.text) if name == "vtt" else event.text
            plain = plain.replace("｛", "{").replace("｝", "}")
            assert [line.replace("\u2060", "") for line in plain.split(r"\N")] == list(cue.lines)
            tolerance = 5 if name == "ass" else 0
            assert abs(event.start - cue.start) <= tolerance
            assert abs(event.end - cue.end) <= tolerance


# Where lines are broken


def test_lines_break_at_clauses_and_are_balanced() -> None:
    text = "And so my fellow Americans, ask not what your country can do for you"
    assert shown(cues(evenly(text, 5), "en")) == [
        ("And so my fellow Americans,", "ask not what your country can do for you")
    ]
    assert shown(cues(evenly("the committee discussed the new proposal and then it was accepted", 5), "en")) == [
        ("the committee discussed the new", "proposal and then it was accepted")
    ]


def test_articles_and_titles_stay_with_their_nouns() -> None:
    for text, torn in (
        ("we went over there to talk to him about the house", "the"),
        ("I said it to Mr. Smith " * 2, "Mr."),
    ):
        lines = [line for cue in shown(cues(evenly(text, 4), "en")) for line in cue]
        assert len(lines) > 1
        assert not any(line.endswith(f" {torn}") for line in lines)


def test_sentences_are_cues_of_their_own_and_short_ones_share_one() -> None:
    long = (
        "This is a sentence that fills most of a single line. And this one is also quite long, so it needs its own cue."
    )
    assert [cue[-1][-1] for cue in shown(cues(evenly(long, 8), "en"))] == [".", "."]
    assert len(cues(evenly("I have never been there before. Have you ever been?", 6), "en")) == 2
    assert shown(cues(evenly("Yes. No. Maybe.", 1.5), "en")) == [("Yes. No. Maybe.",)]


def test_cues_of_one_sentence_are_about_as_long() -> None:
    text = "Mr. Quilter is the apostle of the middle classes and we are glad to welcome his gospel among us."
    assert shown(cues(evenly(text, 6), "en")) == [
        ("Mr. Quilter is the apostle", "of the middle classes"),
        ("and we are glad", "to welcome his gospel among us."),
    ]


def test_japanese_breaks_at_its_marks_and_between_phrases() -> None:
    text = "今日はとても天気がいいので、公園でコーヒーを飲みながら新しい本を読みました。"
    words = [{"word": letter, "start": index / 5, "end": (index + 1) / 5} for index, letter in enumerate(text)]
    chunk = {"start": 0.0, "end": len(text) / 5, "text": text, "words": words}
    assert shown(cues([chunk], "ja")) == [
        ("今日はとても天気がいいので、",),
        ("公園でコーヒーを飲みながら", "新しい本を読みました。"),
    ]


def test_pieces_of_latin_words_stay_together_among_wide_characters() -> None:
    texts = ["私"] * 13 + ["Op", "en", "AI"] + ["は"] * 13
    chunk = {
        "start": 0.0,
        "end": 6.0,
        "text": "".join(texts),
        "words": list(words_of(texts, False, [(0, 200)] * 29, 0)),
    }
    assert any("OpenAI" in line for cue in shown(cues([chunk], "ja")) for line in cue)


def test_right_to_left_text_keeps_its_logical_order() -> None:
    text = "مرحبا بكم في هذا البرنامج"
    assert shown(cues(evenly(text, 3), "ar")) == [(text,)]


def test_chunks_are_joined_with_a_space_only_where_the_language_has_one() -> None:
    def both(one: str, other: str) -> list[dict[str, Any]]:
        return [{"start": 0.0, "end": 1.0, "text": one}, {"start": 1.0, "end": 2.0, "text": other}]

    assert shown(cues(both("Yes", "indeed"), "en")) == [("Yes indeed",)]
    assert shown(cues(both("そう", "です"), "ja")) == [("そうです",)]


def test_words_that_do_not_spell_the_text_are_not_used() -> None:
    chunk = {"start": 1.0, "end": 2.0, "text": "good morning", "words": [{"word": " good", "start": 1.0, "end": 1.2}]}
    assert cues([chunk], "en") == [Cue(1000, 2000, ("good morning",))]


# When they are shown


def test_no_cue_spans_a_long_pause() -> None:
    """Not even between words that belong together."""
    found = cues(english(("the", 0.0, 0.5), ("house", 2.1, 2.6)), "en")
    assert [(cue.lines, cue.start) for cue in found] == [(("the",), 0), (("house",), 2100)]
    assert shown(cues(english(("the", 0.0, 0.5), ("house", 1.9, 2.6)), "en")) == [("the house",)]


def test_cue_rather_ends_than_goes_on_through_a_silence() -> None:
    chunks = evenly("and we are glad to welcome his gospel", 2.5) + evenly(
        "And so my fellow Americans,", 1.5, start=3.8
    )
    assert [cue.start for cue in cues(chunks, "en")] == [0, 3800]


def test_cues_stay_in_the_silence_after_them_until_they_are_read() -> None:
    fast = "a sentence of forty columns said quickly"
    (cue,) = cues(evenly(fast, 1.0), "en")
    assert cue.end == len(fast) * 1000 // SPEED == 2000
    first, second = cues(evenly(fast, 0.2) + evenly("next", 0.5, start=1.8), "en")
    assert (first.end, second.start) == (1800 - GAP, 1800)


def test_a_flash_is_held_and_the_next_cue_waits_for_it() -> None:
    lines = "x" * 42
    found = cues([{"start": 0.0, "end": 0.0, "text": " ".join([lines] * 4)}], "en")
    assert [(cue.start, cue.end) for cue in found] == [(0, SHORTEST), (SHORTEST + GAP, SHORTEST + GAP + 4250)]


def test_a_stretched_word_is_not_shown_for_ever() -> None:
    assert cues(english(("so", 0.0, 20.0)), "en") == [Cue(0, LONGEST, ("so",))]


# Formats


@pytest.mark.parametrize(
    ("name", "empty"),
    [("srt", ""), ("vtt", "WEBVTT\n\n"), ("txt", ""), ("tsv", "start\tend\ttext\n")],
)
def test_no_speech_is_an_empty_file(name: str, empty: str) -> None:
    assert exports({"chunks": []}, [name], None) == {name: empty}


def test_no_speech_is_a_valid_substation_file() -> None:
    file = pysubs2.SSAFile.from_string(exports({"chunks": []}, ["ass"], None)["ass"])
    assert (len(file), list(file.styles), file.info["ScriptType"]) == (0, ["Default"], "v4.00+")


def test_text_that_looks_like_a_cue_stays_text() -> None:
    text = "first\n\n7\n00:00:01,000 --> 00:00:09,000\nsecond <i>third</i> & 42"
    chunks = [{"start": 0.0, "end": 4.0, "text": text}]
    found = exports({"chunks": chunks}, ["srt", "vtt"], "en")
    for name, written in found.items():
        file = pysubs2.SSAFile.from_string(written, format_=name)
        assert spelled("".join(html.unescape(event.plaintext) for event in file)) == spelled(text)
    assert "&amp; 42" in found["vtt"]
    assert "<" not in found["vtt"]
    assert found["vtt"].count("-->") == found["srt"].count("-->") == len(cues(chunks, "en"))


@pytest.mark.parametrize("text", ["from 00:00:01,000 to 00:00:02,000", "10:20.30 11:20.30", "x" * 42 + " 1234"])
@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_numbers_and_times_that_are_said_are_not_taken_for_the_files_own(name: str, text: str) -> None:
    written = exports({"chunks": [{"start": 0.0, "end": 4.0, "text": text}]}, [name], "en")[name]
    (event,) = pysubs2.SSAFile.from_string(written, format_=name)
    assert spelled(event.plaintext) == spelled(text)


def test_control_characters_are_left_out() -> None:
    chunks = [{"start": 0.0, "end": 4.0, "text": "a\x00b \x1b[1mc"}]
    assert shown(cues(chunks, "en")) == [("ab [1mc",)]
    assert exports({"chunks": chunks}, ["txt"], "en") == {"txt": "ab [1mc\n"}


def test_braces_and_backslashes_are_text_in_substation_files() -> None:
    (event,) = pysubs2.SSAFile.from_string(
        exports({"chunks": [{"start": 0.0, "end": 2.0, "text": r"{\an8}C:\new {x}"}]}, ["ass"], "en")["ass"]
    )
    assert event.plaintext.replace("\u2060", "") == r"｛\an8｝C:\new ｛x｝"


def test_times_after_ten_hours_are_right() -> None:
    chunks = [{"start": 40_000.0, "end": 40_002.0, "text": "late"}]
    for name in ("srt", "vtt", "ass"):
        (event,) = pysubs2.SSAFile.from_string(exports({"chunks": chunks}, [name], "en")[name], format_=name)
        assert event.start == 40_000_000


def test_text_and_table_have_a_line_for_each_chunk() -> None:
    chunks = [{"start": 0.0, "end": 1.2346, "text": "one\ttwo"}, {"start": 2.0, "end": 3.5, "text": "three\nfour"}]
    found = exports({"chunks": chunks}, ["txt", "tsv"], "en")
    assert found["txt"] == "one two\nthree four\n"
    assert found["tsv"] == "start\tend\ttext\n0\t1235\tone two\n2000\t3500\tthree four\n"


def test_client_and_server_offer_the_formats_that_are_written() -> None:
    assert set(OFFERED) == set(get_args(Format)) == FORMATS.keys()


# From the worker


@pytest.fixture(scope="module")
def whisper(whisper_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    data = tmp_path_factory.mktemp("data")
    worker = Whisper(WhisperSettings(model=str(whisper_model), threads=1), folders(data))
    worker.load()
    return worker


def test_worker_exports_what_it_heard_and_keeps_words_that_nobody_asked_for(whisper: Whisper, tmp_path: Path) -> None:
    """In the answer; partials have them, since a later attempt cuts its subtitles by them."""
    timed, _ = drive(whisper, {"file": EXAMPLE, "word_timestamps": True}, Recorder(tmp_path))
    asked = {"file": EXAMPLE, "formats": ["vtt", "srt", "tsv", "srt"]}
    ctx = Recorder(tmp_path)
    result, _ = drive(whisper, asked, ctx)
    assert result["exports"] == exports(timed, ["vtt", "srt", "tsv"], timed["language"])
    assert all("words" in chunk for chunk in ctx.partials.values())
    assert not any("words" in chunk for chunk in result["chunks"])
    assert drive(whisper, asked, ctx.again())[0] == result
    both, _ = drive(whisper, {**asked, "word_timestamps": True}, Recorder(tmp_path))
    assert both["chunks"] == timed["chunks"]


def test_formats_without_cues_need_no_words(whisper: Whisper, tmp_path: Path) -> None:
    plain, _ = drive(whisper, {"file": EXAMPLE}, Recorder(tmp_path))
    result, _ = drive(whisper, {"file": EXAMPLE, "formats": ["txt", "tsv"]}, Recorder(tmp_path))
    assert result["chunks"] == plain["chunks"]
    assert plain == exported(plain, WhisperParams.model_validate({"file": FileRef("path", "x"), "formats": []}))
    assert "exports" not in plain


def test_silent_film_has_empty_subtitles(whisper: Whisper, tmp_path: Path) -> None:
    film = write(tmp_path / "silent.mp4", None, video=1)
    asked = {"file": film, "missing_audio": "empty", "formats": ["srt", "vtt"]}
    assert drive(whisper, asked, Recorder(tmp_path))[0]["exports"] == {"srt": "", "vtt": "WEBVTT\n\n"}


def test_translation_is_broken_as_english() -> None:
    chunks = [{"start": 0.0, "end": 1.0, "text": "Yes"}, {"start": 1.0, "end": 2.0, "text": "indeed"}]
    params = WhisperParams.model_validate({"file": FileRef("path", "x"), "task": "translate", "formats": ["srt"]})
    assert "Yes indeed" in exported({"chunks": chunks, "language": "ja"}, params)["exports"]["srt"]
