"""Who waits when the disk does: over whole steps, as the road makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st
from rpds import HashTrieMap

from contract.messages import Request
from pipeline.backlog import OVERHEAD_BYTES, Backlog, weight
from pipeline.job import Job, Out, Step
from pipeline.plans import Plan, Stage
from pipeline.references import Key, Run
from tests.toys.toy import ToyParams

LIMIT = 1_000_000
PLAN = Plan(
    "two",
    ToyParams,
    (Stage("loud", "shouter", {"words": "$request.words"}), Stage("soft", "whisperer", {"words": "$loud.words"})),
    {"two": "$soft"},
)
JOB = Job("job", Request(1, "me", "local", "two", {}), PLAN, 0.0, 1.0)


def step(stage: str, size: int, seq: int | None = 1) -> Step:
    return Step(JOB, outs=(Out("partial", seq, {"x": "x" * (size - 8)}, stage),))


def test_those_who_say_the_most_wait_until_half_is_written() -> None:
    calls: list[Collection[str]] = []
    backlog = Backlog(lambda workers: calls.append(set(workers)), LIMIT)
    loud, soft = [step("loud", 300_000) for _ in range(3)], [step("soft", 200_000) for _ in range(2)]
    for each in (*loud[:2], soft[0], loud[2]):
        backlog.add(each)
    assert calls == [{"shouter"}]
    backlog.add(soft[1])
    for each in loud:
        backlog.remove(each)
    assert calls == [{"shouter"}, {"shouter", "whisperer"}, set()]


def test_who_begins_to_shout_while_another_waits_must_wait_too() -> None:
    calls: list[Collection[str]] = []
    backlog = Backlog(lambda workers: calls.append(set(workers)), LIMIT)
    for _ in range(4):
        backlog.add(step("loud", 300_000))
    for _ in range(4):
        backlog.add(step("soft", 300_000))
    assert calls == [{"shouter"}, {"shouter", "whisperer"}]


def test_many_short_events_weigh_more_than_their_text() -> None:
    calls: list[Collection[str]] = []
    backlog = Backlog(lambda workers: calls.append(set(workers)), LIMIT)
    for _ in range(LIMIT // OVERHEAD_BYTES):
        backlog.add(step("loud", 8))
    assert calls == [{"shouter"}]


def test_checkpoints_and_results_are_counted() -> None:
    calls: list[Collection[str]] = []
    backlog = Backlog(lambda workers: calls.append(set(workers)), LIMIT)
    key: Key = ("loud", ())
    for run in (Run("queued", checkpoint="x" * 600_000), Run("done", result="x" * 600_000)):
        backlog.add(Step(dataclasses.replace(JOB, runs=HashTrieMap({key: run})), changed=(key,)))
    assert calls == [{"shouter"}]


def test_hints_wait_for_no_disk() -> None:
    backlog = Backlog(lambda workers: None, LIMIT)
    hint = dataclasses.replace(step("loud", 300), outs=(Out("progress", None, {"fraction": object()}, "loud"),))
    backlog.add(hint)  # whose text nobody writes
    backlog.remove(hint)


@given(st.lists(st.tuples(st.sampled_from(("loud", "soft", "data", "")), st.integers(8, 900_000), st.booleans())))
def test_everybody_is_heard_again_when_all_is_written(said: list[tuple[str, int, bool]]) -> None:
    held: set[str] = set()

    def hold(workers: Collection[str]) -> None:
        held.clear()
        held.update(workers)

    backlog = Backlog(hold, LIMIT)
    waiting: list[Step] = []
    for stage, size, written in said:
        waiting.append(step(stage, size))
        backlog.add(waiting[-1])
        if written:
            backlog.remove(waiting.pop(0))
        unwritten = sum(weight(each).total() for each in waiting)
        assert not held or unwritten > LIMIT // 2
        assert held or unwritten <= LIMIT
    for each in waiting:
        backlog.remove(each)
    assert not held
