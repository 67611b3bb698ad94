"""Where a worker keeps the temporary files of an attempt, and what a task is called in the names of files."""

from __future__ import annotations

import shutil
from pathlib import Path

from contract.folders import Folders
from contract.messages import Task


def workdir_of(task: Task, folders: Folders) -> Path:
    """The folder of an attempt, not made yet."""
    return folders.work / attempt_name(task)


def clear_workdir(task: Task, folders: Folders) -> None:
    """Delete an attempt's temporary files."""
    folder = workdir_of(task, folders)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def attempt_name(task: Task) -> str:
    """One attempt's, unlike any other's."""
    return f"{task_name(task)}.{task.attempt}"


def task_name(task: Task) -> str:
    """A task's, in all its attempts."""
    return f"{task.job}.{task.stage}.{'-'.join(map(str, task.item))}"
