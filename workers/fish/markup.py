"""A text with Markdown, HTML, SSML or emoji in it, as somebody would read it aloud.

    text ─▶ tags      those of HTML and SSML go, their text stays; a border where they part blocks or ask for a pause
         ─▶ Markdown  by markdown-it: links by their text, images by their description, tables row by row
         ─▶ emoji     go, but for digits in boxes and for signs such as © that are written as text

What only looks like markup is left alone: paragraphs without any come out byte for byte as they went in, and where a
sign may be either (`2*3*4`, `- 5 degrees`, `# of items`, `x<y and y>z`) it stays.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import regex
from markdown_it import MarkdownIt
from markdown_it.token import Token

_WINDOW = 20_000
"""Characters looked at together: what people make of markup is linear, what others make of it may not be."""
_BORDER = "\n\n"
"""Where a piece of speech ends, with a pause."""

_BLOCKS, _INLINE, _ALONE = (
    frozenset(names.split())
    for names in (
        "address article aside blockquote body break caption dd div dl dt figcaption figure footer form h1 h2 h3 h4 h5 "
        "h6 head header hr html legend li main nav ol option p paragraph s section sentence speak table td th title tr "
        "ul",
        "a abbr audio b bdi bdo big button center cite code data del desc dfn em emphasis font i img input ins kbd "
        "label lang lexicon mark meta metadata phoneme pre prosody q rp rt ruby samp say-as small span strike strong "
        "sub sup tbody thead time token tt u var video voice w wbr",
        "area audio br break col dd dt hr img input li lexicon link mark meta p source td th tr wbr",
    )
)
"""Tags of HTML and SSML: those that part one thing that is said from the next; others; those that need no end."""
_TAG = regex.compile(
    r"""<(?P<close>/)?(?P<name>[A-Za-z][\w.-]*(?::[A-Za-z][\w.-]*)?)
    (?P<attributes>(?:\s++[\w:.-]++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'|[^\s"'=<>`]++))*+)\s*+(?P<empty>/)?>""",
    regex.VERBOSE,
)
_UNSAID = regex.compile(r"<!--.*?-->|<\?.*?\?>|<!DOCTYPE\b[^>]*>|<(script|style)\b[^>]*>.*?</\1\s*>", regex.S | regex.I)
_ALIAS = regex.compile(r"""\balias\s*=\s*(?:"([^"]*)"|'([^']*)')""")

_PLAIN = frozenset(
    f"{name}_{end}" for name in ("paragraph", "ordered_list", "list_item") for end in ("open", "close")
) | {"inline"}
"""Tokens of Markdown that are said as they are written: the numbers of a list are."""
_LINE_END = regex.compile(r"\r\n?|\n")
_DEFINITION = regex.compile(r"^ {0,3}\[[^\]\n]+\]:\s*<?(?:https?:|mailto:|www\.|[/#.])", regex.M)
_NOTE = regex.compile(r"\[\^[\w-]+\]:?")
_CHECKBOX = regex.compile(r"^\[[ xX]\]\s+")

_EMOJI = regex.compile(
    r"""(?V1)(?:\p{RI}\p{RI}
    |(?:\p{Emoji_Presentation}|[\p{Extended_Pictographic}]\ufe0f|\p{Extended_Pictographic}(?=\p{Emoji_Modifier}|\u200d))
     [\p{Emoji_Modifier}\ufe0f\u20e3\U000e0020-\U000e007f]*+
     (?:\u200d\p{Extended_Pictographic}[\p{Emoji_Modifier}\ufe0f\U000e0020-\U000e007f]*+)*+)""",
    regex.VERBOSE,
)
_EMOJI_RUN = regex.compile(rf"(?V1)([^\S\r\n]*)(?:{_EMOJI.pattern}[^\S\r\n]*+)++", regex.VERBOSE)
_KEYCAP = regex.compile(r"([0-9#*])\ufe0f?\u20e3")


def read_aloud(text: str) -> str:
    """What of a text is to be said. A text without markup and emoji is returned as it is."""
    return "".join(_without_emoji(_without_markdown(_without_tags(part))) for part in _windows(text))


def _windows(text: str) -> Iterator[str]:
    """In parts of at most _WINDOW, cut where that hurts least: at an empty line, a line's end, a space."""
    start = 0
    while len(text) - start > _WINDOW:
        borders = (text.rfind(border, start, start + _WINDOW) for border in (_BORDER, "\n", " "))
        end = next((border + 1 for border in borders if border > start), start + _WINDOW)
        yield text[start:end]
        start = end
    yield text[start:]


# Tags.


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    text = _UNSAID.sub(" ", text)
    tags = list(_TAG.finditer(text))
    gone = _with_partners(tags)
    parts, end = [], 0
    silent = 0  # where a `sub` ends, whose alias is said instead of its text
    for tag in tags:
        if tag.start() not in gone or tag.start() < silent:
            continue
        parts.append(text[end : tag.start()])
        end = tag.end()
        alias = _ALIAS.search(tag["attributes"]) if tag["name"].lower() == "sub" else None
        if alias:
            parts.append(html.unescape(alias[1] or alias[2] or ""))
            end = silent = gone[tag.start()]
        elif _name(tag) in _BLOCKS:
            parts.append(_BORDER)
        elif _name(tag) == "br":
            parts.append("\n")
    return "".join([*parts, text[end:]])


def _with_partners(tags: Sequence[regex.Match[str]]) -> dict[int, int]:
    """Where each tag that is one begins, and of those with a partner where that begins."""
    found: dict[int, int] = {}
    waiting: dict[str, list[int]] = {}
    for tag in tags:
        name = _name(tag)
        if name not in _BLOCKS | _INLINE | _ALONE and ":" not in name:
            continue
        if tag["close"]:
            if waiting.get(name):
                opening = waiting[name].pop()
                found[opening], found[tag.start()] = tag.start(), tag.end()
        elif tag["empty"] or name in _ALONE:
            found[tag.start()] = tag.end()
        if not tag["close"] and not tag["empty"]:
            waiting.setdefault(name, []).append(tag.start())
    return found


def _name(tag: regex.Match[str]) -> str:
    return tag["name"].lower()


# Markdown.


def _parser(text: str) -> MarkdownIt:
    """CommonMark with tables, without what plain texts have as well: indented lines, `[Ann]: Yes.`"""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["code"])
    return parser if _DEFINITION.search(text) else parser.disable(["reference"])


def _without_markdown(text: str) -> str:
    ends = [*_LINE_END.findall(text), ""]
    lines = [line + end for line, end in zip(_LINE_END.split(text), ends, strict=True)]
    env: dict[str, Any] = {}
    tokens = _parser(text).parse(text, env)
    for definition in env.get("references", {}).values():
        first, last = definition["map"]
        lines[first:last] = [""] * (last - first)
    parts, done = [], 0
    for block in _blocks(tokens):
        first, last = block[0].map or (done, done)
        source = "".join(lines[first:last])
        said = _said(block)
        parts += lines[done:first]
        parts.append(source if said is None else said + ends[last - 1])
        done = last
    return "".join([*parts, *lines[done:]])


def _blocks(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """The tokens of each block of the outermost level."""
    block: list[Token] = []
    for token in tokens:
        block.append(token)
        if token.level == 0 and token.nesting <= 0:
            yield block
            block = []


def _said(block: Sequence[Token]) -> str | None:
    """A block as it is read aloud; None where it has no markup, or none that is not said."""
    inlines = [token for token in block if token.type == "inline"]
    if _only_looks_so(block, inlines) or all(token.type in _PLAIN for token in block):
        said = [_inline(token) for token in inlines]
        if all(one.split() == token.content.split() for one, token in zip(said, inlines, strict=True)):
            return None
        if block[0].type == "paragraph_open":
            return said[0]
    return "" if block[0].type == "hr" else _lines(block)


def _only_looks_so(block: Sequence[Token], inlines: Sequence[Token]) -> bool:
    """`# of items`, `> 5 people`, `- 5 degrees`: a sign before a small letter or a number, once."""
    if len(inlines) != 1 or "\n" in inlines[0].content:
        return False
    start = inlines[0].content[:1]
    if block[0].type == "heading_open":
        return block[0].markup == "#" and start.islower()
    return block[0].type in ("blockquote_open", "bullet_list_open") and start.isdecimal()


def _lines(block: Sequence[Token]) -> str:
    """A heading, list, quotation, table or piece of code: a line for each thing that is said."""
    lines: list[str] = []
    row: list[str] | None = None
    number = ""
    for token in block:
        if token.type == "list_item_open":
            number = f"{token.info}{token.markup} " if token.info else ""
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close" and row is not None:
            lines.append(", ".join(filter(None, row)))
            row = None
        elif token.type in ("fence", "code_block"):
            lines.append(token.content.rstrip("\n"))
        elif token.type == "inline":
            said = _inline(token)
            if row is not None:
                row.append(said)
                continue
            lines.append(number + (said if number else _CHECKBOX.sub("", said)))
            number = ""
    return "\n".join(lines)


def _inline(token: Token) -> str:
    children = token.children or []
    kept = _literal_marks(children)
    parts: list[str] = []
    for place, child in enumerate(children):
        if child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type == "image":
            parts.append(child.content)
        elif child.nesting:
            parts.append(child.markup if place in kept else "")
        else:
            parts.append(child.content)
    return _NOTE.sub("", "".join(parts))


def _literal_marks(children: Sequence[Token]) -> set[int]:
    """Places of asterisks that multiply, `2*3*4`, rather than emphasize: within a word or a number."""
    kept: set[int] = set()
    opened: list[int] = []
    for place, child in enumerate(children):
        if child.nesting == 1:
            opened.append(place)
        elif child.nesting == -1:
            start = opened.pop()
            before = children[start - 1].content[-1:] if start else ""
            after = children[place + 1].content[:1] if place + 1 < len(children) else ""
            if _multiplies(child.markup, before) or _multiplies(child.markup, after):
                kept |= {start, place}
    return kept


def _multiplies(marks: str, beside: str) -> bool:
    """Languages without spaces emphasize parts of what looks like a word, and so may others with two asterisks."""
    return beside.isascii() and ((marks == "*" and beside.isalnum()) or (marks == "**" and beside.isdecimal()))


# Emoji.


def _without_emoji(text: str) -> str:
    if text.isascii():
        return text
    return _EMOJI_RUN.sub(_gap, _KEYCAP.sub(r"\1 ", text))


def _gap(found: regex.Match[str]) -> str:
    """What is left of some emoji: a space, where something is said before and after."""
    before = found.string[: found.start()][-1:]
    after = found.string[found.end() : found.end() + 1]
    if not before or not after or before.isspace() or after.isspace() or after in ".,;:!?":
        return ""
    return " "
