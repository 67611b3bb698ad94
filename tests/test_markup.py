"""Texts with markup as they are read aloud; and plain texts, which must come out as they went in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.fish.markup import read_aloud
from workers.fish.sentences import spoken_pieces

# ruff: noqa: RUF001


def said(text: str) -> str:
    """As one line."""
    return " ".join(read_aloud(text).split())


@pytest.mark.parametrize(
    "text",
    [
        *("5 * 3 = 15", "2*3*4", "5*3 and 4*2", "a*b*c", "2**3**4", "10 % * 5", "4* hotel", "what?! *sigh"),
        *("snake_case_name", "a_b_c", "~/.bashrc", "a ~ b ~ c", "5 | 6", "\\o/", "C++ and C--", "C#", "**"),
        *("a < b > c", "x<y and y>z", "a <b and c> d", "a<b>c", "I <3 you", "2 > 1", "List<String> x", "<your name>"),
        *("# of items", "#hashtag", "> 5 people", "- 5 degrees", "+ 3", "-5", "+49 30 1234", "@name #tag"),
        *("1. Mai", "3. Oktober war es kalt.", "1. one\n2. two", "1) one\r\n\r\n2) two\r\n", "(a) b", "[1] said"),
        *("[Ann]: Yes.\n[Bob]: No.", "http://a.example/x_y_z_", "me@x.org", "Tom & Jerry", "AT&T;", "$5 or \u20ac 5"),
        *(
            "  indented",
            "    four\n    more",
            "a\tb",
            "a\r\nb\rc\n",
            "a\n\n\nb\n",
            "a  \nb",
            "x\x0by",
            "a\u2028b",
            "a\0b",
        ),
        *(
            "\u00a9 2024 \u2122 \u00ae",
            "\u2764 and \u260e",
            "5 \u2194 6",
            "\u4eca\u65e5\u306f\u3002",
            "می\u200cخواهم",
            "क्षि",
        ),
        *("", " \n "),
    ],
)
def test_a_plain_text_is_left_as_it_is(text: str) -> None:
    assert read_aloud(text) == text


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("# A title", "A title"),
        ("## of cats", "of cats"),
        ("Title\n=====\nText", "Title Text"),
        (
            "Some **bold**, *slanted*, ***both***, __bold__, _slanted_ and ~~struck~~.",
            "Some bold, slanted, both, bold, slanted and struck.",
        ),
        ("**Note:** un**frigging**believable", "Note: unfriggingbelievable"),
        ("**\u4f60\u597d**\u4e16\u754c", "\u4f60\u597d\u4e16\u754c"),
        ("See [the *page*](http://a.example/b_c) or <http://b.example>.", "See the page or http://b.example."),
        ("See [it][1].\n\n[1]: http://a.example", "See it."),
        ("![A cat](cat.png)", "A cat"),
        ("Run `rm -rf *` now.\n```sh\nls *.txt\n```", "Run rm -rf * now. ls *.txt"),
        ("- one\n- **two**\n  - three", "one two three"),
        ("1. **one**\n2. two", "1. one 2. two"),
        ("- [ ] milk\n- [x] eggs", "milk eggs"),
        ("> quoted\n> twice", "quoted twice"),
        ("| Name | Age |\n|---|---|\n| Ann | 5 |", "Name, Age Ann, 5"),
        ("one\n\n---\n\ntwo", "one two"),
        ("A claim[^1].\n\n[^1]: its source", "A claim. its source"),
        ("Tom &amp; Jerry &lt;3 &eacute;", "Tom & Jerry <3 \u00e9"),
        ("5 \\* 3", "5 * 3"),
    ],
)
def test_markdown_is_read_as_people_read_it(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("<speak>Hello <emphasis level='strong'>you</emphasis>.</speak>", "Hello you."),
        ('<prosody rate="slow">A <say-as interpret-as="digits">12</say-as></prosody>', "A 12"),
        ('<amazon:effect name="whispered">psst</amazon:effect>', "psst"),
        ("The <sub alias='World Wide Web'>WWW</sub>, H<sub>2</sub>O", "The World Wide Web, H2O"),
        ("a <B>bold</B> <a href='http://a.example'>link</a> &amp; more", "a bold link & more"),
        ("<!-- unseen -->seen<script>run(1 < 2)</script>", "seen"),
        ("if x<b and <b>y</b> is", "if x<b and y is"),
        ("<p>One<p>two <a href=http://a.example/b>red</a><ul><li>three</ul>", "One two red three"),
    ],
)
def test_tags_go_and_their_text_stays(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize("tag", ["<break/>", "<break time='500ms'/>", "</p><p>", "<br><br>", "<s/>", "<hr>"])
def test_a_break_is_a_pause(tag: str) -> None:
    first, second = spoken_pieces(read_aloud(f"<p>{'words ' * 10}here{tag}and there</p>"))
    assert (first.text[-4:], second.text) == ("here", "and there")
    assert first.pause > 0.2


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello \U0001f44b world!", "Hello world!"),
        ("Great\U0001f44d\U0001f3fd! Yes\U0001f389\U0001f389.", "Great! Yes."),
        ("a\U0001f600b", "a b"),
        ("the \U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f1e9\U0001f1ea", "the family"),
        ("\u2764\ufe0f love", "love"),
        ("\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f yes", "yes"),
        ("press 1\ufe0f\u20e3 or #\ufe0f\u20e3", "press 1 or #"),
        ("\u00a9\ufe0e 2024", "\u00a9\ufe0e 2024"),
    ],
)
def test_emoji_are_not_spoken(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize(
    "text", ["\U0001f389\U0001f389", "---", "![](a.png)", "<break/>", "**", "<p></p>", "# ", "```\n```"]
)
def test_what_is_only_markup_has_nothing_to_speak(text: str) -> None:
    assert spoken_pieces(read_aloud(text)) == []


@given(
    st.lists(
        st.sampled_from(["word", "Two", "3", "x1", "*", "**", "_", "#", "-", ">", "+", ".", "|", "\n", "\n\n", " "])
    )
)
@settings(max_examples=300, deadline=None)
def test_marks_never_cost_a_letter_or_number(parts: list[str]) -> None:
    text = "".join(parts)
    assert [letter for letter in read_aloud(text) if letter.isalnum()] == [
        letter for letter in text if letter.isalnum()
    ]


@given(st.text(st.characters(categories=["L", "Nd", "Zs", "Po"], exclude_characters="*#&\\@%"), max_size=80))
@settings(max_examples=300, deadline=None)
def test_words_and_points_are_left_as_they_are(text: str) -> None:
    assert read_aloud(text) == text


@given(st.text(max_size=200) | st.text("<>/!-&;[](){}*_`~#\\'\"=|:. \nabp1\U0001f600\u200d\ufe0f", max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read(text: str) -> None:
    assert isinstance(read_aloud(text), str)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 10_000, "[](" * 4_000, "*a " * 4_000, "**a*" * 2_500, "`" * 10_000, "<" * 10_000, "<!--" * 2_500),
        *("<b>" * 3_300, "<sub alias='x'>" * 700, "> " * 5_000, "- " * 5_000, "\U0001f600" * 10_000, "&" * 10_000),
        *("|a" * 5_000 + "\n" + "|-" * 5_000, "[a]: /b\n" * 1_200, "word **bold** \U0001f600 " * 20_000),
    ],
    ids=lambda text: f"{text[:6]!r}",
)
def test_no_text_takes_for_ever(text: str) -> None:
    """What takes quadratic time would outlast the test."""
    read_aloud(text)
