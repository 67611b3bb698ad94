"""Messages as strangers write them, made by hypothesis from what the server itself declares.

schema of a plan or a control ─▶ a message that fits ─▶ some of its values, keys or letters changed ─▶ a `Step`

A step is what is said on one of the doors. Names in capitals (`OWN_JOB` …) stand for ids that a running server gives;
they are as long as those, so that lengths that were written before still hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

import orjson
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from gateway.docs import CONTROLS
from pipeline.catalog import load_plans
from tests.shipped import SHIPPED

OWN_JOB, OTHERS_JOB, LIVE_JOB = (f"job_{name:_<24}" for name in ("OWN", "OTHERS", "LIVE"))
OWN_FILE = f"file_{'OWN':_<32}"
NAMES = (OWN_JOB, OTHERS_JOB, LIVE_JOB, OWN_FILE)
CLIP = "clip.wav"
"""What lies in the media root."""
PLANS = {name: plan for name, plan in load_plans(SHIPPED, 1000).items() if "." not in name}


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A Socket.IO event: its JSON, and its attachments. announced: how many of them it says will come."""

    text: str
    attachments: tuple[bytes, ...] = ()
    announced: int = 0
    acked: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Packets:
    """Engine.IO packets as they stand on the wire."""

    packets: tuple[str | bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Http:
    """A request as it stands on the wire. whole: false where its body may be shorter than its head says."""

    raw: bytes
    whole: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Poll:
    """The body of a long-polling POST."""

    body: bytes


Step = Event | Packets | Http | Poll


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """JSON, or what is none, as it stands in the text."""

    text: str


# Values.

_ODD_WRITTEN = [
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "-0.0", "-0", "9" * 400, "0x10", "01", "1.", "+1"),
    *(str(2**63), str(2**63 - 1), str(-(2**63)), str(2**64), str(2**70), "1e308", "0.1e1", "", "undefined", "'x'"),
    *('"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\u202e"', '"\x00"', '"\\x"', '"\n"', '{"a":1,"a":2}', "{", "]"),
    *("[" * 63 + "]" * 63, "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, "[" * 20_000),
    *("[" + "0," * 120_000 + "0]", '"' + "x" * 300_000 + '"', '"' + "x" * 5_000_000 + '"', "[" + "{}," * 9_000 + "{}]"),
]
_ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 1e18, 2**31, 2**53 + 1, [], {}, [[]], [None], {"": None}, "5", "true", "null"),
    *("", " ", "\0", "a\0b", "\u202ex", "\u2066", "\ufeff", "\U0001f600" * 9, "é" * 300, "/", "..", "%00", "$request"),
    *("../../../etc/passwd", "/etc/passwd", "/proc/self/environ", "/dev/stdin", "absent.wav", CLIP, ".", "\\\\x\\y"),
    *("x" * 4_097, "a/" * 3_000, "file_" + "0" * 32, OWN_FILE, OWN_JOB, OTHERS_JOB, LIVE_JOB, "job_" + "0" * 24),
    *({"$blob": "0" * 32 + ".json", "bytes": 1}, {"$file": {"kind": "made", "value": "/etc/passwd", "name": ""}}),
    *({"_placeholder": True, "num": 0}, {"_placeholder": True, "num": 99}, {"_placeholder": True, "num": "x"}),
    *({"_placeholder": True}, {"$error": {}}, ["$item"], {"__proto__": {}}, "nan 1", "inf x", "1e999 x", "0 \0", "nan"),
    *("http://127.0.0.1/", "https://[::1", "file:///etc/passwd", "http://a b/", "javascript:1", "http://x:99999999/"),
]
KEYS = sorted(
    {"id", "type", "idempotency_key", "v_conv", "data", "job_id", "name", "jobs", "limit", "before", "audio", "offset"}
    | {"end", "$blob", "$$blob", "$file", "__proto__", "", "a.b", "\0", "x" * 300, "\u202e", "only", "check", "format"}
    | {name for plan in PLANS.values() for name in plan.written.model_fields}
)

binary = st.binary(max_size=40) | st.integers(0, 4_500_000).map(lambda size: b"\xa5" * size).filter(len)
odd = st.one_of(
    st.sampled_from(_ODD),
    st.sampled_from(_ODD_WRITTEN).map(Written),
    st.recursive(
        st.none()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        max_leaves=5,
    ),
    st.binary(max_size=40),
)


def fitting(shape: Mapping[str, Any], defs: Mapping[str, Any], bent: int = 12) -> SearchStrategy[Any]:
    """Values of a JSON schema, of which one in so many does not fit."""
    if "$ref" in shape:
        return fitting(defs[shape["$ref"].rpartition("/")[2]], defs, bent)
    good = _good(shape, defs, bent)
    return st.integers(1, bent).flatmap(lambda drawn: odd if drawn == 1 else good)


def _good(shape: Mapping[str, Any], defs: Mapping[str, Any], bent: int) -> SearchStrategy[Any]:
    if "anyOf" in shape:
        return st.one_of(*(fitting(option, defs, bent) for option in shape["anyOf"]))
    if "enum" in shape or "const" in shape:
        return st.sampled_from(shape.get("enum") or [shape["const"]])
    match shape.get("type"):
        case "object":
            return _object(shape, defs, bent)
        case "array":
            return st.lists(fitting(shape.get("items", {}), defs, bent), min_size=shape.get("minItems", 0), max_size=4)
        case "integer" | "number" as kind:
            least, most = (shape.get(name, limit) for name, limit in (("minimum", 0), ("maximum", 2**63)))
            return st.integers(least, most) if kind == "integer" else st.floats(0.01, 1)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string" if "binary content" in shape.get("description", ""):
            return st.sampled_from([CLIP, OWN_FILE]) | st.binary(min_size=1, max_size=40)
        case "string":
            return st.text(min_size=1, max_size=min(shape.get("maxLength", 9), 9)) | st.sampled_from(
                ["en", "auto", "https://example.com/x", OWN_JOB, LIVE_JOB, "recording", "main"]
            )
        case _:
            return odd


def _object(shape: Mapping[str, Any], defs: Mapping[str, Any], bent: int) -> SearchStrategy[Any]:
    fields = {name: fitting(inner, defs, bent) for name, inner in shape.get("properties", {}).items()}
    must = set(shape.get("required", ()))
    if "additionalProperties" in shape and not fields:
        inner = shape["additionalProperties"]
        return st.dictionaries(st.sampled_from(NAMES), fitting(inner if inner is not True else {}, defs, bent))
    return st.fixed_dictionaries(
        {name: value for name, value in fields.items() if name in must},
        optional={name: value for name, value in fields.items() if name not in must},
    )


@cache
def _shapes() -> tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...]:
    """(type, schema, definitions) of everything that has a type."""
    controls = [(name, {"type": "object", "properties": keys}) for name, keys in CONTROLS.items()]
    return tuple((name, schema, schema.get("$defs", {})) for name, schema in (*_schemas(), *controls))


def _schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, plan in PLANS.items():
        schema = plan.written.model_json_schema()
        yield name, schema
        yield (
            name,
            {
                **schema,
                "type": "object",
                "properties": {"data": {"type": "array", "items": schema}},
                "required": ["data"],
            },
        )


Pairs = list[tuple[str, Any]]


@st.composite
def messages(draw: Any) -> Pairs:
    """A message as the pairs of its keys and values, since a key may come twice."""
    kind, shape, defs = draw(st.sampled_from(_shapes()))
    body = draw(_object(shape, defs, draw(st.sampled_from([4, 12, 40]))))
    pairs: Pairs = [("type", kind), ("id", draw(st.integers(0, 9) | odd)), *body.items()]
    if draw(st.integers(0, 5)) == 0:
        pairs.append(("idempotency_key", draw(st.text(min_size=1, max_size=3) | odd)))
    for change in draw(st.lists(st.integers(0, 4), max_size=3)):
        place = draw(st.integers(0, max(0, len(pairs) - 1)))
        if change == 0 or not pairs:
            pairs.append((draw(st.sampled_from(KEYS)), draw(odd)))
        elif change == 1:
            pairs[place] = (pairs[place][0], draw(odd))
        elif change == 2 and place:
            del pairs[place]
        elif change == 3:
            pairs[place] = (draw(st.sampled_from(KEYS)), pairs[place][1])
        else:
            pairs.insert(place, (pairs[place][0], draw(odd)))
    return pairs


def written(value: Any, attachments: list[bytes]) -> str:
    """JSON; binary as a placeholder for the attachment that it becomes. Pairs are an object."""
    if isinstance(value, Written):
        return value.text
    if isinstance(value, bytes):
        attachments.append(value)
        return f'{{"_placeholder":true,"num":{len(attachments) - 1}}}'
    if isinstance(value, dict):
        value = list(value.items())
        return "{" + ",".join(f"{_text(key)}:{written(part, attachments)}" for key, part in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(part, attachments) for part in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value)


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def object_of(pairs: Pairs, attachments: list[bytes]) -> str:
    return "{" + ",".join(f"{_text(key)}:{written(value, attachments)}" for key, value in pairs) + "}"


def changed_text(draw: Any, text: str) -> str:
    """Some letters of a text, or a part of it, other than they were."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 4))
        put = draw(st.sampled_from(["", '"', "{", "}", "[", "]", ",", ":", "\\", "-", "5", "/", "\0", "\ufeff", "e9"]))
        text = text[:place] + put + text[place + length :]
    return text


# Steps.

_EVENT_NAMES = ["audio", "connect", "disconnect", "session", "", "\0", "x" * 200, "jobs"]


@st.composite
def events(draw: Any) -> Event:
    attachments: list[bytes] = []
    kind = draw(st.integers(0, 9))
    pairs = draw(audio_pieces() if kind == 1 else messages())
    name = draw(st.sampled_from(_EVENT_NAMES)) if kind == 0 else "audio" if kind == 1 else "message"
    arguments = [object_of(pairs, attachments)]
    if kind == 2:
        arguments = [written(draw(odd), attachments) for _ in range(draw(st.integers(0, 3)))]
    text = f"[{','.join([_text(name), *arguments])}]"
    if kind == 3:
        text = changed_text(draw, text)
        text = text if text[:1] == "[" else f"[{text}"
    announced = len(attachments)
    if attachments and draw(st.integers(0, 4)) == 0:
        announced = draw(st.integers(0, len(attachments) + 1))
    quiet = draw(st.integers(0, 3)) == 0 and not {"listen", "idempotency_key", "audio"} & set(_words(text))
    return Event(text, tuple(attachments), announced, acked=not quiet)


def _words(text: str) -> Iterator[str]:
    return (word for word in ("listen", "idempotency_key", "audio") if word in text)


@st.composite
def audio_pieces(draw: Any) -> Pairs:
    """Pieces of a recording."""
    pairs: Pairs = [("job_id", draw(st.sampled_from([LIVE_JOB, OWN_JOB, OTHERS_JOB]) | odd))]
    pairs.append(("audio", draw(st.binary(max_size=40) | odd)))
    if draw(st.booleans()):
        pairs.append(("offset", draw(st.integers(0, 40) | odd)))
    if draw(st.integers(0, 20)) == 0:
        pairs.append(("end", draw(st.booleans() | odd)))
    return pairs


@st.composite
def packets(draw: Any) -> Packets:
    said = draw(events())
    head = f"45{said.announced}-" if said.attachments else "42"
    text = changed_text(draw, f"{head}{draw(st.sampled_from(['', '7', '/x,', '/,']))}{said.text[:2000]}")
    loose = tuple(draw(st.lists(st.text(max_size=9) | st.binary(max_size=9), max_size=2)))
    return Packets((text, *said.attachments, *loose))


_POSTED = [
    *("/jobs",) * 9,
    *("/files", "/files", f"/jobs/{LIVE_JOB}/audio", f"/jobs/{OWN_JOB}/ticket", "/socket.io/?EIO=4&transport=polling"),
    *(f"/jobs/{name}/signals/recording" for name in (LIVE_JOB, OWN_JOB, OTHERS_JOB)),
]
_READ = [
    *("/jobs", "/jobs", "/files", "/voices", "/health", "/metrics", "/", "/docs", "/openapi.json", "/asyncapi.yaml"),
    *(f"/jobs/{OWN_JOB}/events", f"/jobs/{OTHERS_JOB}/events", f"/jobs/{OWN_JOB}", f"/jobs/{OTHERS_JOB}"),
    *(f"/jobs/{LIVE_JOB}", f"/files/{OWN_FILE}", "/files?path=", "/nothing", "/socket.io/"),
    *("/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=4&transport=websocket", "/socket.io/?EIO=4&sid=x"),
]
_DELETED = [f"/jobs/{OTHERS_JOB}", f"/jobs/{OWN_JOB}", "/voices/ref_1", "/voices/..", "/files/" + "0" * 40]
_QUERY_KEYS = ["wait", "limit", "before", "offset", "end", "ticket", "path", "sid", "EIO", "transport", "t", "j"]
_HEADERS: list[tuple[str, list[str]]] = [
    ("Authorization", ["Bearer x", "Bearer ", "Basic eDp4", "Bearer \xff", "Bearer a.b.c", "bearer", "x" * 5000]),
    (
        "Content-Type",
        ["text/plain", "multipart/form-data", "multipart/mixed; boundary=b", "\xff", "application/json;x", ""],
    ),
    ("Content-Encoding", ["gzip", "deflate", "br", "zstd", "x", "identity"]),
    ("Transfer-Encoding", ["chunked", "gzip", "x"]),
    ("Content-Length", ["0", "5", "-1", "99", "x", "99999999999999999999"]),
    ("Last-Event-ID", ["1", "0", "-1", "x", "9" * 19, "9" * 400, "²", "٣", "nan"]),
    ("Range", ["bytes=0-", "bytes=5-1", "bytes=-1", "x", "bytes=99999999999999999999-", "bytes=0-1,3-4"]),
    ("Expect", ["100-continue", "x"]),
    ("Origin", ["null", "http://evil.example", "x", "http://[::1", "\xff"]),
    ("Host", ["evil.example", "", "[::1", "localhost:99999", "127.0.0.1", "\xff"]),
    ("If-None-Match", ["*", '"x"', "x"]),
    ("If-Modified-Since", ["x", "Sat, 01 Jan 0000 00:00:00 GMT", "9" * 99]),
    ("Upgrade", ["websocket", "h2c"]),
    ("X-Forwarded-For", ["1.2.3.4", "x"]),
    ("Cookie", ["a=b; c", "\xff=", "io=x"]),
]


@st.composite
def requests(draw: Any) -> Http:
    method = draw(
        st.sampled_from(["POST"] * 6 + ["GET"] * 5 + ["DELETE"] * 2 + ["PUT", "HEAD", "OPTIONS", "PATCH", "X"])
    )
    fitting_paths = {"POST": _POSTED, "GET": _READ, "DELETE": _DELETED}.get(method, [])
    path = draw(st.sampled_from(fitting_paths if fitting_paths and draw(st.integers(0, 9)) else _POSTED + _READ))
    if draw(st.integers(0, 9)) == 0:
        path += draw(st.sampled_from(["%00", "/..", "%ED%A0%80", "%2e%2e%2f", "//", "/%ff", "%", "x" * 9000, "/\xff"]))
    if draw(st.integers(0, 2)) == 0:
        pairs = draw(st.lists(st.tuples(st.sampled_from(_QUERY_KEYS), _query_values), max_size=3))
        path += ("&" if "?" in path else "?") + "&".join(f"{key}={value}" for key, value in pairs)
    headers, body = draw(bodies()) if method == "POST" else ({}, b"")
    headers = {"Host": "127.0.0.1", "Authorization": "Bearer TOKEN", "Connection": "close", **headers}
    sent = len(body)
    if draw(st.integers(0, 19)) == 0:
        sent += draw(st.sampled_from([1, 100, -1]))
    if method == "POST":
        headers["Content-Length"] = str(max(0, sent))
    for name, values in draw(st.lists(st.sampled_from(_HEADERS), max_size=2) if draw(st.booleans()) else st.just([])):
        headers[name] = draw(st.sampled_from(values))
        if draw(st.integers(0, 4)) == 0:
            del headers[name]
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    raw = head.encode("latin-1", "replace") + body
    if draw(st.integers(0, 9)) == 0:
        raw = changed_bytes(draw, raw, min(len(raw), 600))
    return Http(raw)


_query_values = st.sampled_from(["0", "1", "0.01", "5"]) | st.one_of(
    st.sampled_from([part for part in _ODD if isinstance(part, str)]).map(lambda text: quote(text[:2000])),
    st.sampled_from(
        ["nan", "inf", "1e400", "-1", "²", "٣", "9" * 30, "%ff", "%ED%A0%80", "nan%20x", "inf+y", "&", "="]
    ),
)


def changed_bytes(draw: Any, raw: bytes, within: int) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        place, length = draw(st.integers(0, within)), draw(st.integers(0, 4))
        raw = raw[:place] + draw(st.binary(max_size=3)) + raw[place + length :]
    return raw


@st.composite
def bodies(draw: Any) -> tuple[dict[str, str], bytes]:
    """(headers, body) of a POST: JSON, a form, or what is neither."""
    kind = draw(st.integers(0, 9))
    if kind < 5:
        text = object_of(draw(messages()), [])
        text = changed_text(draw, text) if kind == 0 else text
        return {"Content-Type": "application/json"}, text.encode(errors="surrogatepass")
    if kind < 9:
        return {"Content-Type": "multipart/form-data; boundary=b"}, form(draw, draw(messages()))
    text = written(draw(odd), [])
    return {"Content-Type": draw(st.sampled_from(["application/json", "text/plain"]))}, text.encode()


def form(draw: Any, pairs: Pairs) -> bytes:
    body = b""
    for key, value in pairs:
        several = value if isinstance(value, list) and draw(st.booleans()) else [value]
        for one in several:
            file = isinstance(one, bytes) or draw(st.integers(0, 19)) == 0
            name = quote(key[:300], safe="/$[]. ") if draw(st.integers(0, 9)) else key[:300].replace("\0", "?")
            extra = (
                draw(st.sampled_from(["", "", '; filename="a/../b.wav"', "; filename*=utf-8''%ff"])) if not file else ""
            )
            head = f'Content-Disposition: form-data; name="{name}"' + ('; filename="x.wav"' if file else extra)
            content = one if isinstance(one, (bytes, str)) else written(one, [])
            content = content.encode(errors="replace") if isinstance(content, str) else content
            if draw(st.integers(0, 29)) == 0:
                head += "\r\n" + draw(
                    st.sampled_from(["Content-Type: multipart/mixed; boundary=c", "X: " + "y" * 9000, ":"])
                )
            if draw(st.integers(0, 29)) == 0:
                head += "\r\nContent-Transfer-Encoding: " + draw(st.sampled_from(["base64", "quoted-printable", "x"]))
            if draw(st.integers(0, 29)) == 0:
                head += "\r\nContent-Encoding: " + draw(st.sampled_from(["gzip", "deflate", "br", "x"]))
            body += b"--b\r\n" + head.encode("utf-8", "replace") + b"\r\n\r\n" + content + b"\r\n"
    body += draw(st.sampled_from([b"--b--\r\n", b"--b--\r\n", b"--b--\r\n", b"", b"--b", b"--b\r\n"]))
    return changed_bytes(draw, body, len(body)) if draw(st.integers(0, 9)) == 0 else body


@st.composite
def polls(draw: Any) -> Poll:
    said = draw(st.lists(events(), max_size=3))
    body = "\x1e".join(f"42{draw(st.sampled_from(['', '7']))}{one.text[:2000]}" for one in said).encode(
        errors="replace"
    )
    return Poll(changed_bytes(draw, body, len(body)) if draw(st.booleans()) else body)


steps: SearchStrategy[Step] = st.integers(0, 19).flatmap(
    lambda drawn: events() if drawn < 9 else requests() if drawn < 15 else packets() if drawn < 19 else polls()
)


def drawn(count: int, number: int) -> Sequence[Step]:
    """So many steps, the same for each number."""
    found: list[Step] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(steps)
    def collect(step: Step) -> None:
        found.append(step)

    collect()
    return found[:count]
