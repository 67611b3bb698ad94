"""Long texts as pieces to speak: borders in ten scripts, lengths, pauses, nothing lost, no text that takes long."""

# ruff: noqa: RUF001

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.fish.sentences import CLAUSE, PARAGRAPH, SENTENCE, Piece, spoken_pieces

MARKS = " .,;:!?\"'()“”…–—-。！？、，،؟۔।։።។။།\n\t\u200b\u200d\u0301"


def texts(text: str, longest: int) -> list[str]:
    return [piece.text for piece in spoken_pieces(text, longest)]


def spoken(text: str) -> list[str]:
    return regex.findall(r"[\p{L}\p{N}]", unicodedata.normalize("NFD", text))


def bytes_of(text: str) -> int:
    return len(text.encode())


@pytest.mark.parametrize(
    "sentences",
    [
        pytest.param(["Dr. Smith paid 3.14 dollars. ", "He left! ", "Why?"], id="Latin"),
        pytest.param(["See https://a.example/b.c?d=e today. ", '"Hello there." ', "Yes... no."], id="addresses"),
        pytest.param(["Привет, мир. ", "А. С. Пушкин писал стихи. ", "Как дела?"], id="Cyrillic"),
        pytest.param(["Τι κάνεις; ", "Είμαι καλά. ", "Εσύ;"], id="Greek"),
        pytest.param(["今天天气很好。", "我们去公园吧！", "她说：“好的。”"], id="Han"),
        pytest.param(["今日は天気がいい。", "本当？", "「行こう。」"], id="Kana"),
        pytest.param(["안녕하세요. ", "갈까요? ", "네."], id="Hangul"),
        pytest.param(["كيف حالك؟ ", "أنا بخير. ", "شكرا!"], id="Arabic"),
        pytest.param(["یہ ایک جملہ ہے۔ ", "کیا آپ ٹھیک ہیں؟ ", "ہاں۔"], id="Urdu"),
        pytest.param(["यह एक वाक्य है। ", "क्या आप ठीक हैं? ", "हाँ॥"], id="Devanagari"),
        pytest.param(["ይህ አረፍተ ነገር ነው። ", "ደህና ነህ፧ ", "አዎ።"], id="Ethiopic"),
        pytest.param(["Սա նախադասություն է։ ", "Ինչպես ես՞։ ", "Լավ։"], id="Armenian"),
        pytest.param(["នេះជាប្រយោគមួយ។ ", "នេះជាប្រយោគទីពីរ។ ", "ទេ?"], id="Khmer"),
        pytest.param(["ဒါကဝါကျတစ်ခုဖြစ်တယ်။ ", "နေကောင်းလား။ ", "ဟုတ်ကဲ့။"], id="Burmese"),
        pytest.param(["འདི་ནི་ཚིག་གྲུབ་ཅིག་ཡིན། ", "འདི་ནི་གཉིས་པ་ཡིན། ", "ལགས།"], id="Tibetan"),
    ],
)
def test_sentences_end_where_their_script_ends_them(sentences: list[str]) -> None:
    """Between two pieces there is the end of a sentence."""
    pieces = spoken_pieces("".join(sentences), max(map(bytes_of, sentences)))
    ends = {"".join(sentences[:count]).replace(" ", "") for count in range(1, len(sentences) + 1)}
    said = [piece.text.replace(" ", "") for piece in pieces]
    assert {"".join(said[:count]) for count in range(1, len(said) + 1)} <= ends
    assert {piece.pause for piece in pieces[:-1]} == {SENTENCE}


@pytest.mark.parametrize(
    "sentence", ["Am 3. Oktober war es kalt.", "А. С. Пушкин писал.", "Mr. B. Lee came.", "1. Milk"]
)
def test_a_full_stop_within_a_sentence_does_not_end_it(sentence: str) -> None:
    room = bytes_of(sentence) * 3 // 2  # for it and what stands before its full stop
    assert texts(f"{sentence} {sentence}", room) == [sentence, sentence]


def test_thai_is_cut_at_its_spaces_which_part_phrases() -> None:
    text = "สวัสดีครับ วันนี้อากาศดีมาก ไปเที่ยวกันไหม"
    pieces = spoken_pieces(text, bytes_of("วันนี้อากาศดีมาก"))
    assert [piece.text for piece in pieces] == text.split()
    assert [piece.pause for piece in pieces] == [CLAUSE, CLAUSE, 0.0]


def test_short_sentences_share_a_piece_while_they_fit() -> None:
    assert texts("One. Two. Three. Four.", 200) == ["One. Two. Three. Four."]
    assert texts("One two. Three four. Five six.", 20) == ["One two. Three four.", "Five six."]


def test_no_single_word_is_left_for_the_last_piece() -> None:
    assert texts("aaaa bbbb cccc dddd eeee f", 24) == ["aaaa bbbb cccc", "dddd eeee f"]
    assert max(map(bytes_of, texts("a" * 60 + " b" * 70, 100))) <= 100


def test_a_long_sentence_is_cut_at_clauses_then_words_then_letters() -> None:
    text = "When the rain had stopped, they all went out; nobody spoke - for at 10:30, 1,000 birds had come."
    assert spoken_pieces(text, 49) == [
        Piece("When the rain had stopped, they all went out;", CLAUSE),
        Piece("nobody spoke - for at 10:30,", CLAUSE),
        Piece("1,000 birds had come.", 0.0),
    ]
    assert spoken_pieces("nobody ever spoke - for years they did", 30)[0] == Piece("nobody ever spoke -", CLAUSE)
    assert texts("他有1，000只鸟，还有一只猫。", 25) == ["他有1，000只鸟，", "还有一只猫。"]
    assert texts("one two three four", 9) == ["one two", "three", "four"]
    assert texts("https://example.com/some/path", 16) == ["https://", "example.com/", "some/path"]
    assert texts("a" * 10, 4) == ["aaaa", "aaaa", "aa"]


def test_letters_keep_their_marks() -> None:
    cluster = "क्षि"
    for piece in texts(cluster * 40, 47):
        assert piece == cluster * (len(piece) // len(cluster))
    assert texts("a" + "\u0315" * 500, 200) == ["a" + "\u0315" * 30]
    assert texts("e\u0323\u0302" * 3, 5) == ["\u1ec7"] * 3


def test_a_sentence_in_quotes_is_cut_only_if_it_must_be() -> None:
    quote = 'He said: "Nobody came. Nobody called." Then he left.'
    assert texts(quote, 40) == ['He said: "Nobody came. Nobody called."', "Then he left."]
    assert texts('"We saw Dr. Smith there today. Mr. Jones left."', 35) == [
        '"We saw Dr. Smith there today.',
        'Mr. Jones left."',
    ]
    assert texts(quote, 30) == ['He said: "Nobody came.', 'Nobody called." Then he left.']


def test_paragraphs_are_borders_and_pauses_say_what_ended() -> None:
    pieces = spoken_pieces("A title\nFirst sentence here. Second one,\r\n\r\nThe end.", 24)
    assert pieces == [
        Piece("A title", PARAGRAPH),
        Piece("First sentence here.", SENTENCE),
        Piece("Second one,", PARAGRAPH),
        Piece("The end.", 0.0),
    ]
    assert [piece.pause for piece in spoken_pieces("aaaa bbbb", 4)] == [0.0, 0.0]


def test_a_line_broken_for_its_width_goes_on() -> None:
    wrapped = "This line was broken by a program at its seventieth\ncolumn. This is not."
    assert texts(wrapped, 200) == [wrapped.replace("\n", " ")]
    assert texts("bread\nmilk", 200) == ["bread", "milk"]
    assert len(texts("这一行没有小写字母" * 8 + "\n下一行", 400)) == 2


@pytest.mark.parametrize("text", ["", " \n\t", "...", "🙂 👍🏽", "—!?", "\ud800\x00", "\u0301\u200b", "* * *\n---"])
def test_nothing_to_speak_is_no_piece(text: str) -> None:
    assert spoken_pieces(text) == []


def test_what_cannot_be_spoken_is_left_out_between_pieces_and_keeps_its_pause() -> None:
    assert spoken_pieces("Hello, hello\n🙂🙂🙂\n* * *\nWorld", 20) == [
        Piece("Hello, hello", PARAGRAPH),
        Piece("World", 0.0),
    ]
    assert spoken_pieces("Hello there, 🙂🙂. Bye bye, you.", 12)[0] == Piece("Hello there,", SENTENCE)


def test_text_is_cleaned() -> None:
    assert texts("e\u0301 a\u00a0\u2003b\tc \x00\x1b\ufeff\u202ed\udfff soft\u00adhy ", 200) == ["é a b c d softhy"]
    assert texts("ខ្មែរ\u200bខ្មែរ", 200) == ["ខ្មែរខ្មែរ"]
    assert texts("می\u200cخواهم " + "!" * 900 + " 8", 200) == ["می\u200cخواهم !!! 8"]


def test_sentences_are_whole_in_long_texts_too() -> None:
    assert all(text.endswith("sentence.") for text in texts("These are seven words in a sentence. " * 500, 64))


@given(
    text=st.text(st.one_of(st.sampled_from(MARKS), st.characters(), st.sampled_from("abAB12")), max_size=200)
    | st.lists(st.sampled_from(["a", "bb.", "Cc,", "dddddddddddddddddddd", "1.", "ខ្មែរ"])).map(" ".join),
    longest=st.integers(4, 80),
)
@settings(max_examples=200, deadline=None)
def test_every_letter_and_number_is_spoken_once_and_in_order(text: str, longest: int) -> None:
    pieces = spoken_pieces(text, longest)
    assert [char for piece in pieces for char in spoken(piece.text)] == spoken(text)
    for piece in pieces:
        assert bytes_of(piece.text) <= longest
        assert piece.text == piece.text.strip() and spoken(piece.text)
        assert piece.pause in {0.0, CLAUSE, SENTENCE, PARAGRAPH}
    assert not pieces or pieces[-1].pause == 0.0
    assert spoken_pieces(text, longest) == pieces


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 100_000, id="one word"),
        pytest.param("a" + "." * 1_000_000, id="full stops"),
        pytest.param("a" + "\u0301\u0316" * 500_000, id="marks on a letter"),
        pytest.param("\u1100" * 50_000, id="one cluster"),
        pytest.param("a" + "🇦🇧" * 20_000 + "b", id="flags"),
        pytest.param("今天很好。" * 30_000, id="no spaces"),
        pytest.param("1. " * 30_000, id="numbers"),
        pytest.param('"a. ' * 30_000, id="open quotes"),
        pytest.param("\n" * 300_000 + "a", id="empty lines"),
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """About 0.2 s each; what takes quadratic time takes many."""
    started = time.process_time()
    assert all(bytes_of(piece.text) <= 200 for piece in spoken_pieces(text, 200))
    assert time.process_time() - started < 3


def test_no_model_library_is_needed() -> None:
    program = "import sys, workers.fish.sentences, workers.fish.joints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
