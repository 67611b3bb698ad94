"""How tests ask a server: by HTTP, and by the command in their own process. `conftest` has the fixtures."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from multidict import CIMultiDictProxy


class Reply(NamedTuple):
    status: int
    body: Any
    """Parsed, when it is JSON."""
    headers: CIMultiDictProxy[str]


Call = Callable[..., Coroutine[Any, Any, Reply]]
"""``await call("POST", "/jobs", token, json=…)``; token: for the Authorization header."""
Optivus = Callable[..., tuple[int, str, str]]
"""Arguments → exit status, standard output, standard error."""
