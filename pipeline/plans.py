"""Pipelines as data: a `Plan` names its stages, and references between them are the dependencies.

    "$request.urls"   a parameter of the request          "$item.file"   the element of the fan-out
    "$fetch"          the whole result of stage `fetch`   "$fetch.file"  one field of it
    "$fetch*.file"    the list of it over all elements that `fetch` ran for
    First("$fetch.file", "$item.file")   the first that is not null
    {"**": "$request.whisper"}           the keys of what it leads to, beside the others

A stage starts when everything it refers to is there, so stages that do not refer to each other run side by side.
`over` runs a stage once for each element of a list, and stages that refer to it run once for each element too; with the
star a stage stands outside that fan-out and waits for all of it. A reference that leads nowhere fails at import, and so
does a stage with two lists side by side, which would not say which elements belong together: zip them in `over`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel

from contract.params import Bind, checked
from pipeline.keys import unknown_keys

REFUSED = "$error"
"""Key of a batch element that was refused at the door: ``{"$error": failure}``; it fails in its place."""

SPREAD = "**"

RESERVED = frozenset({"type", "id", "idempotency_key", "v_conv"})
"""Keys of a message that belong to the road, not to a worker."""

MAX_WARNINGS = 20

Over = tuple[tuple[str, str], ...]
"""A fan-out: its list's reference under the name "", or the references of several lists by their names, zipped."""
Scope = tuple[Over, ...]
"""The fan-outs that a stage stands in, outermost first; its items have one index for each."""


class First(tuple[str, ...]):
    """References, of which the first that leads to something is taken."""

    def __new__(cls, *refs: str) -> Self:
        return super().__new__(cls, refs)


class Reference(NamedTuple):
    """head: `request`, `item` or a stage. star: it stands outside the innermost fan-out of that stage."""

    head: str
    path: tuple[str, ...]
    star: bool


@dataclasses.dataclass(frozen=True)
class Retry:
    """How a stage's failures are tried again, which are a remote's and not the task's: it need not run alone.

    codes: of the failures that may pass, where their details say so: by `retry_after`, in seconds, or by `retry`.
    tries: in all. seconds: before the second, each pause twice the one before, where the details do not say it.
    longest: a failure that would have to wait for more seconds is final.
    """

    codes: frozenset[str]
    tries: int = 3
    seconds: float = 5.0
    longest: float = 600.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """One call of a worker, or one for each element of `over`.

    worker: a worker's name; or a pure function of the parameters, for what is too small for a process. What a function
        gives is not written down: after a restart it is called again.
    params: a template: references are replaced, everything else is passed as it stands.
    over: a reference to a list; or several by name, which are zipped, so that `$item.name` is an element of each.
    when: a reference; the stage is skipped, with result None, where it is empty.
    on_error: ``fail`` ends the job, ``keep`` leaves the error in the place of the result.
    wait: in the place of a worker: the stage waits for a signal of its own name, whose data this model accepts.
    live: its task follows a recording that the client is still sending; the stage of this name waits for the end of it.
    """

    name: str
    worker: str | Callable[..., Any] = ""
    params: Any = None
    over: str | Mapping[str, str] | None = None
    when: str | None = None
    on_error: Literal["fail", "keep"] = "fail"
    wait: type[BaseModel] | None = None
    live: str | None = None
    retry: Retry | None = None

    @cached_property
    def sources(self) -> Over | None:
        if self.over is None:
            return None
        return (("", self.over),) if isinstance(self.over, str) else tuple(self.over.items())

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """What must be there before one of its items can begin: its references, but for the list itself."""
        return (*references(self.params), *([self.when] if self.when else ()))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pipeline. `answer` is the template of the documented answer, or a reference to a result that is the answer.

    params: what the stages refer to as `$request`.
    each: template of one element of the fan-out; the answer then has them all, in order, under `data`.
    echoes: keys of the request's element that stand beside the error of one that failed.
    message: what a client writes, for the documents and for warnings, where `read` makes something else of it.
    read: a client's message → what `params` describes; given the message without its reserved keys, and `bind`.
    also: keys that `read` takes beside those of `message`.
    version: a job that began under an earlier one goes on under that, if it is among `before`.
    """

    name: str
    params: type[BaseModel]
    stages: tuple[Stage, ...]
    answer: dict[str, Any] | str = dataclasses.field(default_factory=dict)
    each: dict[str, Any] | str | None = None
    echoes: tuple[str, ...] = ()
    message: type[BaseModel] | None = None
    read: Callable[[dict[str, Any], Bind], dict[str, Any]] | None = None
    also: frozenset[str] = frozenset()
    version: int = 1
    before: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        self._check_references()
        for stage in self.stages:
            self._check_stage(stage)
        if self.each is not None and len({scope[0] for scope in self.scopes.values() if scope}) != 1:
            raise ValueError(f"plan {self.name}: `each` needs one outermost fan-out")

    # What it needs.

    @cached_property
    def needs(self) -> frozenset[str]:
        """The workers that the answer needs. Without one of them it is nothing but an error."""
        certain = {stage.worker for stage in self.stages if stage.on_error == "fail" and not (stage.when or stage.over)}
        every = self.workers
        return frozenset(name for name in certain if name in every) or (every if len(every) == 1 else frozenset())

    @cached_property
    def workers(self) -> frozenset[str]:
        return frozenset(stage.worker for stage in self.stages if isinstance(stage.worker, str) and stage.worker)

    @cached_property
    def live(self) -> Stage | None:
        """The stage that follows the client's recording, which is the parameter `file`."""
        return next((stage for stage in self.stages if stage.live), None)

    @property
    def written(self) -> type[BaseModel]:
        """What a client writes."""
        return self.message or self.params

    def of_version(self, version: int) -> Plan | None:
        return next((plan for plan in (self, *self.before) if plan.version == version), None)

    # Stages and their fan-outs, worked out once.

    @cached_property
    def by_name(self) -> dict[str, Stage]:
        return {stage.name: stage for stage in self.stages}

    @cached_property
    def scopes(self) -> dict[str, Scope]:
        """The fan-outs that each stage stands in."""
        scopes: dict[str, Scope] = {}
        for stage in self.stages:
            used = [ref for _, ref in stage.sources] if stage.sources else stage.needs
            inherited: Scope = ()
            for one in map(reference, used):
                if one.head in scopes:
                    theirs = scopes[one.head]
                    inherited = max(inherited, theirs[:-1] if one.star else theirs, key=len)
            scopes[stage.name] = (*inherited, stage.sources) if stage.sources else inherited
        return scopes

    @cached_property
    def from_stages(self) -> tuple[frozenset[str], frozenset[str]]:
        """The keys of `answer`, and those of `each`, that any stage fills."""

        def keys(template: Any) -> frozenset[str]:
            filled = template.items() if isinstance(template, Mapping) else ()
            return frozenset(key for key, value in filled if not self.by_name.keys().isdisjoint(heads(value)))

        return keys(self.answer), keys(self.each)

    @cached_property
    def links(self) -> Links:
        return Links.of(self)

    # What a client writes.

    def parse(self, raw: Mapping[str, Any], bind: Bind) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The parameters of a client's message, and warnings about keys that nobody reads.

        bind: turns a client's path, file_id or bytes into a `FileRef`, or raises why not.
        Raises: InvalidInput, or what `bind` raises.
        """
        given = {name: value for name, value in raw.items() if name not in RESERVED}
        params = self.read(dict(given), bind) if self.read else checked(self.params, given, bind).model_dump()
        unknown = unknown_keys(given, self.written, self.also | RESERVED)
        return params, tuple(f"unknown key {key[:80]!r} was ignored" for key in unknown[:MAX_WARNINGS])

    # What is wrong with it.

    def _check_references(self) -> None:
        known = {"request", "item"}
        for stage in self.stages:
            for ref in (*stage.needs, *(ref for _, ref in stage.sources or ())):
                self._check(ref, known, stage.name)
            known.add(stage.name)
        outer = next((scope[:1] for scope in self.scopes.values() if scope), ())
        for template, around in ((self.answer, ()), (self.each, outer)):
            for ref in references(template):
                self._check(ref, known, "answer")
                head, _, star = reference(ref)
                if head == "item" and not around:
                    raise ValueError(f"plan {self.name}: answer uses $item outside a fan-out")
                if not star and len(self.scopes.get(head, ())) > len(around):
                    raise ValueError(
                        f"plan {self.name}: answer refers to {ref}, which is a list: gather it with a star"
                    )

    def _check(self, ref: str, known: set[str], where: str) -> None:
        head, path, _ = reference(ref)
        if head not in known:
            raise ValueError(f"plan {self.name}: {where} refers to {ref}, which no earlier stage gives")
        if head == "request" and path and path[0] not in self.params.model_fields:
            raise ValueError(f"plan {self.name}: {where} refers to {ref}, which is no parameter of it")

    def _check_stage(self, stage: Stage) -> None:
        scope = self.scopes[stage.name]
        outside = scope[:-1] if stage.sources else scope
        placed = [(ref, scope) for ref in stage.needs] + [(ref, outside) for _, ref in stage.sources or ()]
        if any(reference(ref).head == "item" and not around for ref, around in placed):
            raise ValueError(f"plan {self.name}: stage {stage.name} uses $item outside a fan-out")
        if bool(stage.worker) == bool(stage.wait):
            raise ValueError(f"plan {self.name}: stage {stage.name} needs either a worker or a wait")
        if stage.live and (stage.live not in self.by_name or not self.by_name[stage.live].wait):
            raise ValueError(f"plan {self.name}: stage {stage.name} follows {stage.live}, which does not wait")
        for ref, around in placed:
            head, _, star = reference(ref)
            theirs = self.scopes.get(head, ())
            if around[: len(theirs)] != theirs and not star:
                raise ValueError(
                    f"plan {self.name}: stage {stage.name} has two lists side by side, of which {ref} is an element of "
                    "the other; zip the lists in `over`, or gather one with a star"
                )


class Links(NamedTuple):
    """What each stage's end sets going, so that an event costs what depends on it and not the size of the job.

    aligned: the stages that refer to it, each for the items below its own. gathering: those that refer to all of its
    items below the first so many indices. fanning: the fan-outs whose list it gives, and whether by a star.
    inside: for each fan-out the stages that stand in it, at any depth. born: the stages that stand in just this scope.
    below: the fan-outs right below a scope.
    """

    aligned: Mapping[str, tuple[str, ...]]
    gathering: Mapping[str, tuple[tuple[str, int], ...]]
    fanning: Mapping[str, tuple[tuple[Scope, bool], ...]]
    inside: Mapping[Scope, tuple[str, ...]]
    born: Mapping[Scope, tuple[str, ...]]
    below: Mapping[Scope, tuple[Scope, ...]]

    @classmethod
    def of(cls, plan: Plan) -> Links:
        scopes = plan.scopes
        levels = tuple(dict.fromkeys(scope[:depth] for scope in scopes.values() for depth in range(1, len(scope) + 1)))
        every: tuple[Scope, ...] = ((), *levels)
        heads = {stage.name: [reference(ref) for ref in dict.fromkeys(stage.needs)] for stage in plan.stages}

        def users(name: str, star: bool) -> Iterator[str]:
            yield from (user for user, refs in heads.items() if any(r.head == name and r.star == star for r in refs))

        def fans(name: str) -> Iterator[tuple[Scope, bool]]:
            for level in levels:
                found = [one for one in map(reference, (ref for _, ref in level[-1])) if one.head == name]
                yield from dict.fromkeys((level, one.star) for one in found)

        return cls(
            aligned={name: tuple(users(name, False)) for name in scopes},
            gathering={
                name: tuple((user, gathered_depth(scopes[user], scope)) for user in users(name, True))
                for name, scope in scopes.items()
            },
            fanning={name: tuple(fans(name)) for name in scopes},
            inside={level: tuple(n for n, s in scopes.items() if s[: len(level)] == level) for level in every},
            born={level: tuple(n for n, s in scopes.items() if s == level) for level in every},
            below={level: tuple(deeper for deeper in levels if deeper[:-1] == level) for level in every},
        )


def gathered_depth(scope: Scope, theirs: Scope) -> int:
    """How many indices a stage in `scope` shares with what it gathers: all fan-outs but their innermost, at most."""
    depth = 0
    for mine, other in zip(scope, theirs[:-1], strict=False):
        if mine != other:
            break
        depth += 1
    return depth


def references(template: Any) -> Iterator[str]:
    """Every reference in a template, depth first."""
    if isinstance(template, str) and template.startswith("$"):
        yield template
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from references(value)
    elif isinstance(template, (list, tuple)):
        for value in template:
            yield from references(value)


@cache
def reference(ref: str) -> Reference:
    """The parts of a reference, such as `$fetch*.file`."""
    head, *path = ref[1:].split(".")
    return Reference(head.rstrip("*"), tuple(path), head.endswith("*"))


def heads(template: Any) -> Iterable[str]:
    """What the references of a template begin at."""
    return (reference(ref).head for ref in references(template))
