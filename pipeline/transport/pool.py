"""The processes of one worker, and the queues that they are fed from.

Rules:
- A process starts when there is work for it (or at once, by setting) and leaves when it has been idle for long.
- A process that dies costs the tasks it held one attempt; they run again alone, so that the guilty one is found. One
  that the server killed for another reason than hanging gives its tasks back uncounted.
- A process that has grown far beyond its model takes no more tasks, leaves when its own have ended, and is succeeded.
  Where no other can be had beside it, it goes on taking tasks for as long as somebody speaks to it.
- A model that cannot be had fails what waits for it, and the next request tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from contract.declaration import Declaration, WorkerSettings
from contract.errors import ModelUnavailable, OutOfMemory, as_failure, switched_off
from contract.launch import Launch
from contract.messages import Event, Task
from pipeline.transport.process import Incarnation
from pipeline.transport.room import Room
from pipeline.transport.work_queue import WorkQueue
from storage.workdirs import clear_process, clear_workdir

log = structlog.get_logger()

LOAD_DEATHS = 3
"""A process that died so often while loading its model is not started again for the tasks that wait."""

Tell = Callable[..., None]
"""Called with what happened; with nothing when only the processes have changed."""


class Processes(NamedTuple):
    """How a process is started. serve: what it runs, with its `Launch` and its end of the pipe."""

    context: Any
    serve: Callable[..., None]


class Pool:
    """The processes of one worker.

    Live tasks have a queue and places of their own, since each holds its place for as long as somebody speaks.
    """

    def __init__(
        self, worker: type[Declaration], settings: WorkerSettings, launch: Launch, processes: Processes, tell: Tell
    ) -> None:
        self.name = launch.name
        self.blocked = False
        self.room = Room([self])
        self._queues = {False: WorkQueue(), True: WorkQueue()}  # by `Task.live`
        self.processes: list[Incarnation] = []
        self.restarts = 0
        self.replaced = 0
        self._forward_seconds = 0.0
        """How long models computed in processes that are gone."""
        self.draining = False
        self._on_hold = False
        self.last_failure: dict[str, Any] | None = None
        self.off = settings.switched_off(launch.name)
        self._worker = worker
        self._settings = settings
        self._launch = launch
        self._processes = processes
        self._tell = tell
        self._load_deaths = 0
        self._starts: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._idle_check: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        return sum(map(len, self._queues.values()))

    def submit(self, task: Task) -> None:
        if self.off:
            self._tell(Event.of(task, "failed", as_failure(switched_off(self.name, self.off))))
            return
        self._queues[task.live].put(task)
        self.feed()

    def more(self, job: str, ended: bool) -> None:
        if ended:
            self._queues[True].ended(job)
        for process in self.processes:
            process.more(job, ended)

    def hold(self, on: bool) -> None:
        """Hear its processes no more, those too that are yet to be ready, or go on."""
        self._on_hold = on
        for process in self.processes:
            process.hold(on)

    def cancel(self, job: str) -> None:
        for queue in self._queues.values():
            queue.remove(job)
        for process in self.processes:
            process.cancel(job)
        self.feed()

    def feed(self) -> None:
        """Hand waiting tasks to processes with room; start another process when there is none."""
        if self.draining:
            return
        for queue in self._queues.values():
            while (process := self._for_next_task(queue)) is not None:
                task = queue.take()
                process.send_task(task)
                self._tell(Event.of(task, "started", f"{self._launch.name}:{process.pid}"))
        if self._needs_another():
            self.start()

    def _for_next_task(self, queue: WorkQueue) -> Incarnation | None:
        """The process with the fewest tasks of those that may take the next one."""
        task = queue.peek()
        if task is None:
            return None
        fitting = (process for process in self.processes if self._fits(process, task))
        return min(fitting, key=lambda process: len(process.held), default=None)

    def _needs_another(self) -> bool:
        """Whether tasks share or await a process that is still allowed. One at a time, and none where one failed.

        One that retires and leaves has its model's memory until it is gone.
        """
        ready = [process for process in self.processes if process.state == "ready"]
        serving = sum(not process.retiring for process in ready)
        if (
            self.blocked
            or serving >= self._settings.replicas
            or any(process.state == "starting" or _moves_out(process) for process in self.processes)
        ):
            return False
        return self.queued + self.running() > serving and not (ready and self.last_failure)

    def start(self) -> None:
        process = Incarnation(
            self, self._processes.context, self._processes.serve, self._launch, self._settings.step_seconds
        )
        self.processes.append(process)
        task = self._loop.create_task(self._started(process))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def _started(self, process: Incarnation) -> None:
        try:
            await process.start()
        except Exception as exc:  # no process, memory or file descriptor left, or the fork server was killed
            log.exception("worker_not_started", worker=self._launch.name, of="operator")
            process.kill("not connected")
            self.processes.remove(process)
            reason = (isinstance(exc, OSError) and exc.strerror) or type(exc).__name__
            self._none_to_be_had(
                as_failure(ModelUnavailable(f"No process for {self._launch.name} could be started: {reason}."))
            )

    def running(self) -> int:
        return sum(len(process.held) for process in self.processes)

    def ending(self) -> int:
        """The running tasks that end by themselves; a live one ends when its client falls silent."""
        return sum(not task.live for process in self.processes for task in process.held.values())

    def status(self) -> dict[str, Any]:
        states: list[str] = [process.state for process in self.processes]
        states += ["waiting"] if self.blocked else []  # until another model has left the device
        state = next((state for state in ("ready", "starting", "waiting", "leaving") if state in states), None)
        return {
            "state": state or ("off" if self.off else "unavailable" if self.last_failure else "idle"),
            "queued": self.queued,
            "running": self.running(),
            "restarts": self.restarts,
            "replaced": self.replaced,
            "forward_seconds": self._forward_seconds + sum(map(_computed, self.processes)),
            "processes": [dict(process.info) for process in self.processes if process.state == "ready"],
            **({"error": self.last_failure["message"]} if self.last_failure else {}),
            **({"setting": self.off} if self.off else {}),
        }

    # What the processes tell.

    def on_ready(self, process: Incarnation) -> None:
        log.info("worker_ready", worker=self._launch.name, facts=process.info)
        self._load_deaths = 0
        self.last_failure = None
        process.hold(self._on_hold)
        self.feed()
        self.room.settled(self)
        self._arm_idle_check()

    def on_unavailable(self, process: Incarnation, failure: dict[str, Any]) -> None:
        succeeds = any(other.retiring for other in self.processes)  # the next try comes when that one has left
        if failure["error_code"] != OutOfMemory.code or succeeds or not self.room.make(self):
            self._none_to_be_had(failure)

    def on_events(self, process: Incarnation, events: list[Event]) -> None:
        self._tell(*events)
        self.feed()

    def on_grown(self, process: Incarnation) -> None:
        if process.state != "ready" or process.retiring or self.draining:
            return
        self.replaced += 1
        log.warning("worker_grown", worker=self._launch.name, held=len(process.held), facts=process.info)
        process.retire(self._succeed)
        self.feed()

    def _succeed(self) -> None:
        """So that the next task does not wait for a model that would be there but for the server's own doing."""
        if not (self.processes or self.blocked or self.draining):
            self.start()

    def on_gone(self, process: Incarnation) -> None:
        self.processes.remove(process)
        self._forward_seconds += _computed(process)
        reason = process.killed_for or "died"
        expected = not process.held and process.killed_for is None and process.info
        if process.info and not expected:
            self.restarts += 1
            log.warning("worker_gone", worker=self._launch.name, reason=reason, held=len(process.held))
        if process.pid:
            self._loop.run_in_executor(None, clear_process, process.pid, self._launch.folders)
        for task in process.held.values():
            self._loop.run_in_executor(None, clear_workdir, task, self._launch.folders)
            self._tell(Event.of(task, "lost", {"counted": process.own_end, "reason": reason}))
        if not process.info and not process.unavailable and process.own_end:
            self._died_loading()
        self._tell()
        self.feed()
        if not self.processes and not self.blocked:
            self.room.settled(self)

    def _died_loading(self) -> None:
        self._load_deaths += 1
        log.error("worker_died_loading", worker=self._launch.name, times=self._load_deaths)
        if self._load_deaths >= LOAD_DEATHS:
            self._load_deaths = 0
            name = self._launch.name
            self._none_to_be_had(
                as_failure(
                    ModelUnavailable(
                        f"The process of {name} died {LOAD_DEATHS} times while it loaded its model, most likely for "
                        f"want of memory; choose a smaller model or another device for {name}."
                    )
                )
            )

    def _none_to_be_had(self, failure: dict[str, Any]) -> None:
        """A process could not be had: fail what waits, unless there is another to serve it."""
        log.warning("model_unavailable", worker=self._launch.name, reason=failure["message"])
        self.last_failure = failure
        if not any(other.state == "ready" or other.retiring for other in self.processes):
            waiting = [task for queue in self._queues.values() for task in queue.clear()]
            self._tell(*(Event.of(task, "failed", failure) for task in waiting))
        self.room.settled(self)

    def _fits(self, process: Incarnation, task: Task) -> bool:
        if process.state != "ready" or (process.retiring and not self._holds_on(process)):
            return False
        places = self._worker.live_tasks if task.live else self._worker.places(self._settings)
        if sum(held.live == task.live for held in process.held.values()) >= places:
            return False
        return not process.held or not (task.alone or any(held.alone for held in process.held.values()))

    def _holds_on(self, process: Incarnation) -> bool:
        """Whether one that retires stays for hours, since somebody speaks to it, and has no successor meanwhile."""
        alone = self.last_failure is not None and not self.blocked
        return alone and any(task.live for task in process.held.values())

    # Idle processes leave.

    def _arm_idle_check(self) -> None:
        seconds = self._settings.idle_unload_minutes * 60
        if seconds and self._idle_check is None:
            self._idle_check = self._loop.call_later(seconds, self._let_idle_go, seconds)

    def _let_idle_go(self, seconds: float) -> None:
        self._idle_check = None
        ready = [process for process in self.processes if process.state == "ready"]
        now = self._loop.time()
        for process in ready:
            if not process.held and now - process.idle_since >= seconds - 0.001:
                log.info("worker_idle", worker=self._launch.name, pid=process.pid)
                process.leave()
        staying = [process for process in ready if process.state == "ready"]
        if staying:  # one that works now cannot have been idle for long before all of it has passed again
            wait = min(seconds if process.held else process.idle_since + seconds - now for process in staying)
            self._idle_check = self._loop.call_later(wait, self._let_idle_go, seconds)


def _moves_out(process: Incarnation) -> bool:
    return process.retiring and process.state == "leaving"


def _computed(process: Incarnation) -> float:
    """Seconds, as far as it has told."""
    return float(process.info.get("forward_seconds", 0.0))
