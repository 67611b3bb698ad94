"""One step of a job being worked out: what was set free begins, or ends at once, and sets free what depends on it.

A step costs what depends on the event, and not the size of the job. All that it changes is persistent data: a step that
cannot be worked out leaves the job as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import structlog

from contract.errors import ServiceError, as_failure
from contract.identity import whose
from contract.messages import Event, Item, Task
from pipeline.answer import answer, element
from pipeline.plans import Stage
from pipeline.references import Broken, Key, Run, Unread, Waiting
from pipeline.steps import EMPTY, STATUS, Book, Job, Out, State, Step, Todo
from pipeline.unfolding import ELEMENT, Unfolding

log = structlog.get_logger()


class Change(Unfolding):
    """Collects, and gives the frozen `Step` at the end."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.plan, job.request)
        book = job.book
        self.job, self.state, self.seq = job, job.state, job.seq
        self.runs, self.sizes, self.left, self.opened = job.runs, book.sizes, book.left, book.opened
        self.made: tuple[dict[str, Any], ...] = ()
        self._kept, self._unread, self._waits = book.kept, book.unread, book.waits
        self._active, self._stages = book.active, book.stages
        self._resuming, self._fresh = book.resuming, book.fresh
        self._tasks: list[Task] = []
        self._outs: list[Out] = []
        self._changed: dict[Key, None] = {}
        self._reads: dict[str, None] = {}
        self._whole = False

    def step(self) -> Step:
        resuming = self._resuming and bool(self._kept or self._unread)
        book = Book(
            self._kept,
            self.sizes,
            self.left,
            self.opened,
            self._unread,
            resuming,
            self._fresh if resuming else EMPTY,
            self._waits,
            self._active,
            self._stages,
            self.job.book.due,
        )
        old = self.job
        job = Job(  # `dataclasses.replace` takes three times as long
            old.id,
            old.request,
            old.plan,
            old.created_at,
            old.deadline,
            self.state,
            old.version + 1,
            self.seq,
            old.priority,
            self.runs,
            old.waiting_for,
            old.waiting_since,
            book,
        )
        told = tuple(self._tasks), tuple(self._outs), tuple(self._changed), self.made, tuple(self._reads)
        return Step(job, *told, whole=self._whole)

    # What the client is told.

    def tell(
        self, kind: Literal["partial", "audio", "final"], key: Key, body: dict[str, Any], index: int | None
    ) -> None:
        self.seq += 1
        self._outs.append(Out(kind, self.seq, {**self._address(), "seq": self.seq, **body}, *key, index))

    def hint(self, event: Event) -> None:
        place = {"stage": event.stage, "item": shown(event.item)}
        self._outs.append(Out("progress", None, {**self._address(), **place, **event.data}))

    def _address(self) -> dict[str, Any]:
        return {"job_id": self.job.id, "id": self.request.id}

    # Runs.

    def start(self) -> Step:
        """Begin with what depends on nothing but the request."""
        self._stages = len(self.plan.stages)
        self._born((), ())
        return self.settle()

    def set(self, key: Key, run: Run) -> None:
        old = self.runs.get(key)
        self._active += (run.state == "queued") - (old is not None and old.state == "queued")
        if run.state == "waiting":
            self._waits = self._waits.insert(key, None)
        elif old is not None and old.state == "waiting":
            self._waits = self._waits.discard(key)
        self.runs = self.runs.insert(key, run)
        if not callable(self.plan.by_name[key[0]].worker):
            self._changed[key] = None

    def end_run(self, key: Key, run: Run) -> None:
        self.set(key, run)
        self._ended(key)

    def come(self, key: Key, run: Run) -> Step:
        """What a run waits for is there; one that was not come to since a restart goes on when it is."""
        if key in self.runs:
            self.end_run(key, run)
        else:
            self._kept = self._kept.insert(key, run)
            self._changed[key] = None
        return self.settle()

    def requeue(self, key: Key, run: Run, *, counted: bool = False, after: float | None = None) -> None:
        """Hand a run out again. counted: it may be to blame. after: seconds to wait, for a failure that may pass."""
        run = dataclasses.replace(
            run, attempt=run.attempt + 1, deaths=run.deaths + counted, retries=run.retries + (after is not None)
        )
        self.set(key, run)
        todo = Todo("task", key, after=after or 0.0)
        try:
            self._submit(todo)
        except Unread as unread:
            self._wait_for(unread.blob, todo)

    def _submit(self, todo: Todo) -> None:
        """Raises: Unread."""
        key = todo.key
        stage = self.plan.by_name[key[0]]
        try:
            params = self.resolve(stage.params, key[1], stage)
        except Broken as broken:
            self.end_run(key, dataclasses.replace(self.runs[key], state="failed", result=broken.failure))
        else:
            self._hand_out(stage, key, params, todo.after)

    def _hand_out(self, stage: Stage, key: Key, params: dict[str, Any], after: float = 0.0) -> None:
        assert isinstance(stage.worker, str), "functions are called, not handed out"
        run = self.runs[key]
        end = self.runs.get((stage.live, key[1])) if stage.live else None
        task = Task(
            job=self.job.id,
            stage=stage.name,
            item=key[1],
            worker=stage.worker,
            params=params,
            client=self.request.client,
            owner=self.request.owner,
            attempt=run.attempt,
            queued_as=whose(self.request).name,
            priority=self.job.priority,
            alone=run.deaths > 0 and not stage.live,  # alone, a conversation would hold up everybody for its length
            live=stage.live is not None,
            ended=end is not None and end.settled,
            after=after,
            checkpoint=run.checkpoint,
        )
        self._tasks.append(task)

    def read(self, blob: str, value: Any) -> Step:
        """A blob's value is there, or the exception that says why it is not."""
        self.opened = self.opened.insert(blob, value)
        self._todo.extend(self._unread.get(blob, ()))
        self._unread = self._unread.discard(blob)
        return self.settle()

    def end(self, state: State, body: dict[str, Any]) -> Step:
        """The one final answer."""
        self.state = state
        self._tasks.clear()
        self._reads.clear()
        extra = {"warnings": list(self.request.warnings)} if self.request.warnings else {}
        final = {"type": self.request.type, "status": STATUS[state], **body, **extra}
        self.tell("final", ("", ()), final, None)
        return self.step()

    def settle(self) -> Step:
        """Look at everything that was set free; end the job when nothing is left."""
        while self._todo and self._fatal is None:
            todo = self._todo.popleft()
            try:
                self._look_at(todo)
            except Waiting:
                continue  # it is looked at again when what it waits for has ended
            except Unread as unread:
                self._wait_for(unread.blob, todo)
        if self._fatal is not None:
            return self.end(State.FAILED, self._fatal)
        self._tell_elements()
        if self._stages == 0:
            try:
                return self.end(State.COMPLETED, answer(self))
            except Broken as broken:
                return self.end(State.FAILED, broken.failure)
            except Unread as unread:
                self._wait_for(unread.blob)
        if not self._active and self._waits and not self._unread:
            self.state = State.WAITING
        elif self.state is State.WAITING:
            self.state = State.PROCESSING
        return self.step()

    def _look_at(self, todo: Todo) -> None:
        """Raises: Waiting, Unread."""
        if todo.what == "run":
            self._begin(todo.key)
        elif todo.what == "fan":
            self._count(todo.scope, todo.key[1])
        elif todo.what == "task":
            self._submit(todo)
        else:
            self._elements.append(todo.key[1][0])

    def _wait_for(self, blob: str, *todo: Todo) -> None:
        if blob not in self._unread:
            self._reads[blob] = None
        self._unread = self._unread.insert(blob, (*self._unread.get(blob, ()), *todo))

    def _begin(self, key: Key) -> None:
        """Queue a run, have it wait, or end it at once. Raises: Waiting, Unread."""
        if key in self.runs:
            return
        stage = self.plan.by_name[key[0]]
        try:
            if (kept := self._kept.get(key)) is not None:
                self._take_up(key, kept)
                return
            wanted = stage.when is None or self.resolve(stage.when, key[1], stage)
            params = self.resolve(stage.params, key[1], stage) if wanted else {}
        except Broken as broken:
            self._kept = self._kept.discard(key)
            self.end_run(key, Run("failed", result=broken.failure))
            return
        if not wanted:
            self.end_run(key, Run("skipped"))
        elif stage.wait:
            self.set(key, Run("waiting"))
        elif callable(stage.worker):
            self.end_run(key, self._called(stage, params))
        else:
            self.set(key, Run("queued"))
            self._hand_out(stage, key, params)

    def _take_up(self, key: Key, run: Run) -> None:
        """A run of an earlier life of the server. Raises: Waiting, Unread, Broken."""
        again = run.state == "queued" and self.job.book.due.get(key) == run.attempt
        if again:  # only when all that it needs has been come to as well
            stage = self.plan.by_name[key[0]]
            self.resolve(stage.params, key[1], stage)
        self._kept = self._kept.discard(key)
        self.set(key, run)
        self._changed.pop(key, None)  # the ledger has it
        if run.settled:
            self._ended(key)
        elif again:
            self.requeue(key, run)

    def _called(self, stage: Stage, params: Any) -> Run:
        """Raises: Unread."""
        assert callable(stage.worker)
        try:
            given = self.opened_whole(params)
            return Run("done", result=stage.worker(**given) if isinstance(given, Mapping) else stage.worker(given))
        except Broken as broken:
            return Run("failed", result=broken.failure)
        except ServiceError as exc:
            return Run("failed", result=as_failure(exc))

    def _ended(self, key: Key) -> None:
        """What the end of a run sets free."""
        name, item = key
        stage = self.plan.by_name[name]
        run = self.runs[key]
        if run.state == "failed" and stage.on_error == "fail":
            self._fatal = self._fatal or dict(run.result)
        self._set_free(name, item)
        if self.plan.live is not None and name == self.plan.live.live:
            self._whole = True
        elif stage.live and (stage.live, item) in self._waits:
            self.end_run((stage.live, item), Run("skipped"))  # nobody follows the recording any more

    def _has_ended(self, key: Key) -> bool:
        return key in self.runs and self.runs[key].settled

    def _tell_elements(self) -> None:
        """A partial for each element of the answer that this change finished, but not again after a restart."""
        elements, self._elements = sorted(self._elements), []
        if self._resuming:
            ended = (item[0] for name, item in self._changed if item and self._has_ended((name, item)))
            self._fresh = self._fresh.update(dict.fromkeys(ended))
            elements = [index for index in elements if index in self._fresh]
        for index in elements:
            place = {"stage": "data", "item": index, "index": index}
            try:
                self.tell("partial", ("data", (index,)), {**place, "data": element(self, index)}, index)
            except Unread as unread:
                self._wait_for(unread.blob, Todo("element", (ELEMENT, (index,))))


def shown(item: Item) -> int | list[int] | None:
    """An item as clients see it: null, a number, or a list of numbers when nested."""
    return None if not item else item[0] if len(item) == 1 else list(item)
