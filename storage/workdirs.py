"""Where a worker keeps the temporary files of an attempt, and what a task is called in the names of files.

Names tell a later server what it may delete, so they are of a form that nobody else uses.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from contract.folders import Folders
from contract.messages import Task

WORKDIR = re.compile(r"(job_[0-9a-f]{24})\..+\.\d+|warm-up\.\d+")
"""In the folder of all attempts."""
HALF = re.compile(r"\.[0-9a-f]{32}\.part")


def workdir_of(task: Task, folders: Folders) -> Path:
    """The folder of an attempt, not made yet."""
    return folders.work / attempt_name(task)


def clear_workdir(task: Task, folders: Folders) -> None:
    """Delete an attempt's temporary files."""
    folder = workdir_of(task, folders)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def warm_up_dir(pid: int, folders: Folders) -> Path:
    """Where a process does its worker's example."""
    return folders.work / f"warm-up.{pid}"


def temporary_dir(pid: int, folders: Folders) -> Path:
    """Where a confined process, and what it starts, has its temporary files."""
    return folders.temporary / str(pid)


def clear_warm_up(pid: int, folders: Folders) -> None:
    """Delete what is left of a process's example."""
    shutil.rmtree(warm_up_dir(pid, folders), ignore_errors=True)


def clear_process(pid: int, folders: Folders) -> None:
    """Delete what is left of a process that is gone, but for its attempts."""
    clear_warm_up(pid, folders)
    shutil.rmtree(temporary_dir(pid, folders), ignore_errors=True)


def half(folder: Path, key: str) -> Path:
    """A file on its way into a folder from another disk, in all attempts of a task. key: the task's."""
    return folder / f".{hashlib.sha256(key.encode()).hexdigest()[:32]}.part"


def job_of(workdir: Path) -> str | None:
    """Whose attempt a folder is of."""
    found = WORKDIR.fullmatch(workdir.name)
    return found and found[1]


def attempt_name(task: Task) -> str:
    """One attempt's, unlike any other's."""
    return f"{task_name(task)}.{task.attempt}"


def task_name(task: Task) -> str:
    """A task's, in all its attempts."""
    return f"{task.job}.{task.stage}.{'-'.join(map(str, task.item))}"
