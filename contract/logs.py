"""What a log line may hold, and how it reads: a constant event and its facts, as text on a terminal, else as JSON.

Rules:
- Frames come without their local variables.
- What users sent stays out: a line knows the job that it is about (`about`), and each word of the request is taken out
  of the texts of exceptions. Where a text quotes a value, as those of KeyError and ValueError do, the value goes too.
- Secrets that the server was given, the query of a URL, the password in it, and tokens are taken out of everything: of
  fields in fields, too. There is no way around `_scrub`; what is printed takes the same way, `without_secrets`.
- What libraries log, and what nobody catches, goes the same way; of a library's line only the constant part.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

from contract.known_secrets import without_known
from contract.log_writer import LogWriter

HIDDEN = "…"
MAX_TEXT = 400
"""Characters of an exception's text; libraries put whole inputs there."""
MIN_WORD = 4
"""Shorter words are not taken out of texts: they are `en`, `mp3` and the like."""

_CREDENTIALS = re.compile(r"\b(bearer|basic)\s+[^\s'\"]+", re.IGNORECASE)
_TOKEN = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*")
_USER = re.compile(r"(?<=://)\S*@|[^\s'\"/:]+:[^\s'\"/]+@")
_QUERY = re.compile(r"(://[^\s'\"<>?#]*)[?#;]\S*|(?<=[^\s?])\?[^\s?]\S*|;\w+=\S*")
_QUOTED = re.compile(r"b?'(?:[^'\\]|\\.)*'|" r'b?"(?:[^"\\]|\\.)*"')
_WORD = re.compile(r"\w+")

_NAMES_CODE = {"AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "NotImplementedError"}
_NAMES_CODE |= {"RuntimeError", "TypeError", "UnboundLocalError"}
"""Exceptions whose texts quote names of code, libraries and types, not values."""

_frames = ExceptionDictTransformer(show_locals=False, use_rich=False)


class Subject(NamedTuple):
    """The job and the request that the current lines are about. request: JSON; its words are kept out of the lines."""

    job: str | None
    request: Any


_subject: ContextVar[Subject | None] = ContextVar("subject", default=None)


@contextlib.contextmanager
def about(job: str | None, request: Any) -> Iterator[None]:
    """Lines written meanwhile, here and in threads that start with this context, are about a job or a request."""
    token = _subject.set(Subject(job, request))
    try:
        yield
    finally:
        _subject.reset(token)


def without_secrets(text: str) -> str:
    """A text without known secrets, tokens, and the users, passwords and queries of URLs."""
    text = without_known(text, HIDDEN)
    text = _QUERY.sub(lambda found: f"{found[1] or ''}?{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))
    return _TOKEN.sub(HIDDEN, _CREDENTIALS.sub(rf"\1 {HIDDEN}", text))


def without_words(text: str, request: Any) -> str:
    """A text without the words that stand in a request, whole or as parts of its words, in any case of letters."""
    said = _folded("\n".join(_texts(request)))

    def hidden(found: re.Match[str]) -> str:
        word = _folded(found[0])
        known = word in said and (len(word) >= MIN_WORD or not word.isascii())
        return HIDDEN if known else found[0]

    return _WORD.sub(hidden, text) if said else text


def _folded(text: str) -> str:
    """The same for all cases of letters, the Turkish ones too."""
    return text.upper().casefold()


def _texts(value: Any) -> Iterator[str]:
    """Every string in JSON but the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)


# Processors of structlog, in the order in which `processors` has them.


def _concern(_logger: Any, _method: str, line: EventDict) -> EventDict:
    subject = _subject.get()
    if subject and subject.job:
        line.setdefault("job", subject.job)
    return line


Of = Literal["subject", "operator", "anybody"]
"""Whom an exception concerns: the line's subject; the operator alone, so that values may stay; or nobody knows whom."""


def _explain(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """`exc_info` as frames and texts that may be shown, of which `of` says whom they concern."""
    exc_info, of = line.pop("exc_info", None), line.pop("of", "subject")
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    elif exc_info and not isinstance(exc_info, tuple):
        exc_info = sys.exc_info()
    if exc_info and exc_info[0] is not None:
        line["exception"] = [_shown(layer, of) for layer in _frames(exc_info)]
    return line


def _shown(layer: dict[str, Any], of: Of) -> dict[str, Any]:
    """One exception of a chain, of those in a group too."""
    text = HIDDEN if of == "anybody" else str(layer["exc_value"])
    if of == "subject" and layer["exc_type"] not in _NAMES_CODE:
        text = _QUOTED.sub(HIDDEN, text)
    inner = [[_shown(deeper, of) for deeper in group] for group in layer.get("exceptions", ())]
    return {**layer, "exc_value": _clean(text), "exc_notes": [], "syntax_error": None, "exceptions": inner}


def _clean(text: str) -> str:
    subject = _subject.get()
    text = without_secrets(text[: 4 * MAX_TEXT])
    return (without_words(text, subject.request) if subject else text)[:MAX_TEXT]


_OF_OTHERS = frozenset({"error", "reason", "text"})
"""Fields that hold what an exception or a library says."""


def _scrub(_logger: Any, _method: str, line: EventDict) -> EventDict:
    return {name: _clean(str(value)) if name in _OF_OTHERS else _scrubbed(value) for name, value in line.items()}


def _scrubbed(value: Any) -> Any:
    """A field's value, or one within it. What is none of JSON's is named by its type: its text is anybody's."""
    if isinstance(value, str):
        return without_known(value, HIDDEN) if value.isidentifier() else without_secrets(value)  # most are, and faster
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {_scrubbed(name): _scrubbed(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_scrubbed(part) for part in value]
    return type(value).__name__


def _for_terminal(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """Exceptions as Python shows them, and no character that a terminal would obey."""
    for name, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            line[name] = ascii(value)[1:-1]
    if layers := line.get("exception"):
        line["exception"] = "\n".join(
            "".join(f"    {frame['filename']}:{frame['lineno']} in {frame['name']}\n" for frame in layer["frames"])
            + f"{layer['exc_type']}: {layer['exc_value']}"
            for layer in reversed(layers)
        )
    return line


def processors(terminal: bool) -> list[Processor]:
    """From a line's facts to the bytes that are written: text for a terminal, else JSON."""
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal)
    shared: list[Processor] = [structlog.processors.add_log_level, _concern, _explain, _scrub, stamp]
    if terminal:
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback, pad_event_to=16)
        return [*shared, _for_terminal, plain, _encoded]
    return [*shared, structlog.processors.JSONRenderer(serializer=_as_json)]


def _encoded(_logger: Any, _method: str, line: Any) -> bytes:
    return str(line).encode(errors="backslashreplace")


def _as_json(line: Any, **_: Any) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS)


# What others would write to standard error by themselves.

_log = structlog.get_logger()


class _Libraries(logging.Handler):
    """Takes the standard library's logging. Arguments of a line may be anybody's texts; its constant part is not."""

    def emit(self, record: logging.LogRecord) -> None:
        text = _QUOTED.sub(HIDDEN, str(record.msg).partition("\n")[0])
        say = _log.error if record.levelno >= logging.ERROR else _log.warning  # some loggers have levels of their own
        say("library", logger=record.name, text=text, exc_info=record.exc_info, of="anybody")


def take_strays() -> None:
    """What libraries log, and exceptions that nobody catches, become lines like all others. Once in a process."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)
    for name in ("engineio.server", "socketio.server"):  # else each adds a handler of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], exc: BaseException | None, traceback: TracebackType | None) -> None:
    if exc is not None and not issubclass(kind, (KeyboardInterrupt, SystemExit)):
        _log.critical("uncaught", exc_info=(kind, exc, traceback), of="anybody")


def configure(level: str, aside: bool = False) -> None:
    """Once in each process: structured lines on stderr, for people on a terminal and as JSON elsewhere.

    aside: written by a thread, so that the server does not wait for whoever reads them.
    """
    structlog.configure(
        processors=processors(sys.stderr.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.BytesLoggerFactory(
            cast(BinaryIO, LogWriter(sys.stderr.fileno())) if aside else sys.stderr.buffer
        ),
        cache_logger_on_first_use=True,
    )
