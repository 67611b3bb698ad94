"""What the server says of itself: /health for people and probes, /metrics for Prometheus, both read when asked for.

The road keeps plain counts; nothing here runs while a message is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from contract.errors import Internal, ServiceError
from contract.logs import without_secrets
from pipeline.result_queue import ResultQueue
from pipeline.transport.base import Transport
from storage.ledger import Ledger
from storage.space import Space, too_full


class Health:
    """connections: how many Socket.IO connections there are now."""

    def __init__(  # noqa: PLR0917
        self,
        road: ResultQueue,
        transport: Transport,
        ledger: Ledger,
        space: Space,
        connections: Callable[[], int],
        version: str,
    ) -> None:
        self._road = road
        self._transport = transport
        self._ledger = ledger
        self._space = space
        self._connections = connections
        self._version = version
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def report(self) -> dict[str, Any]:
        """The body of /health. It is `unhealthy` while no job is accepted: the ledger is broken, or the disk full."""
        trouble = self._trouble()
        workers = self._transport.status()
        processes = [process for worker in workers.values() for process in worker.get("processes", ())]
        devices = sorted({str(process["device"]) for process in processes if "device" in process})
        gpu = any(device.startswith("cuda") for device in devices) or Path("/dev/nvidia0").exists()
        return {
            "status": "unhealthy" if trouble else "draining" if self._road.draining else "healthy",
            **(trouble.answer() if trouble else {}),
            "version": self._version,
            "gpu_available": gpu,
            "device": devices[0] if devices else ("cuda" if gpu else "cpu"),
            "model_loaded": bool(processes),
            "vram_used_gb": round(sum(process.get("vram_used_gb", 0.0) for process in processes), 3),
            **({} if (free := self._space.free) is None else {"disk_free_gb": round(free / 1e9, 3)}),
            "open_jobs": self._road.open_jobs,
            "connections": self._connections(),
            "workers": workers,
        }

    def _trouble(self) -> ServiceError | None:
        if trouble := self._ledger.trouble:
            return Internal(f"The ledger is broken ({without_secrets(trouble)}); see `optivus doctor`.")
        return too_full() if self._space.lacks() else None

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        counts = self._road.counts
        accepted = CounterMetricFamily("optivus_jobs_accepted", "Jobs accepted", labels=["type"])
        for kind, number in counts.accepted.items():
            accepted.add_metric([kind], number)
        finished = CounterMetricFamily("optivus_jobs_finished", "Jobs ended, by how", labels=["type", "state"])
        for (kind, state), number in counts.finished.items():
            finished.add_metric([kind, state], number)
        seconds = CounterMetricFamily("optivus_job_seconds", "Seconds from acceptance to answer", labels=["type"])
        for kind, total in counts.seconds.items():
            seconds.add_metric([kind], total)
        yield from (accepted, finished, seconds)
        yield CounterMetricFamily("optivus_submissions_refused", "Messages refused", value=counts.refused)
        yield CounterMetricFamily("optivus_ledger_commits", "Transactions of the ledger", value=self._ledger.commits)
        yield GaugeMetricFamily("optivus_jobs_open", "Unfinished jobs", value=self._road.open_jobs)
        if (free := self._space.free) is not None:
            yield GaugeMetricFamily("optivus_disk_free_bytes", "Free space on the disk of DATA_DIR", value=free)
        yield GaugeMetricFamily("optivus_connections", "Socket.IO connections", value=self._connections())
        yield from self._workers()

    def _workers(self) -> Iterator[Metric]:
        gauges = {
            field: GaugeMetricFamily(f"optivus_worker_{field}", text, labels=["worker"])
            for field, text in (("queued", "Tasks that wait"), ("running", "Tasks under way"))
        }
        restarts = CounterMetricFamily("optivus_worker_restarts", "Processes lost", labels=["worker"])
        replaced = CounterMetricFamily(
            "optivus_worker_replaced", "Processes that had grown and were replaced", labels=["worker"]
        )
        loaded = GaugeMetricFamily(
            "optivus_worker_loaded_bytes",
            "Memory of the processes when their model was loaded",
            labels=["worker", "of"],
        )
        forward = CounterMetricFamily("optivus_forward_seconds", "Seconds that the model computed", labels=["worker"])
        for name, status in self._transport.status().items():
            for field, gauge in gauges.items():
                gauge.add_metric([name], status.get(field, 0))
            restarts.add_metric([name], status.get("restarts", 0))
            replaced.add_metric([name], status.get("replaced", 0))
            processes = status.get("processes", ())
            forward.add_metric([name], status.get("forward_seconds", 0.0))
            for of in ("ram", "vram"):
                taken = [one["loaded_gb"][of] for one in processes if of in one.get("loaded_gb", ())]
                if taken:
                    loaded.add_metric([name, of], sum(taken) * 1e9)
        yield from (*gauges.values(), restarts, replaced, loaded, forward)
