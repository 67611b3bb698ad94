"""`optivus models pull`: the weights of the server's models, fetched on its machine before anybody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import checkout
from .command import FAILED, MISUSED
from .console import say

DEFAULT, ALL = "whisper", "all"


def add(commands: Any) -> None:
    """Add `models pull` to the command."""
    models = commands.add_parser("models", help="the models of the server on this machine", allow_abbrev=False)
    parser = models.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "pull", help="fetch a model; nothing is done when it is there", allow_abbrev=False
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="whisper (when none is named), florence, fish, one of your own, or all"
    )
    parser.set_defaults(run=lambda args: pull(args.names))


def pull(names: Sequence[str]) -> int:
    """The exit status. names: of workers or of their messages' types, or `all`; none of them: the default's.

    One that cannot be had does not stop the others.
    """
    if not checkout.on_path():
        say(checkout.ALONE)
        return MISUSED
    try:
        from config import Settings, SettingsError, load_workers
        from contract.logs import configure
    except ImportError as exc:
        say(f"`models pull` runs on the server's machine, where requirements.txt is installed ({exc}).")
        return MISUSED
    try:
        settings = Settings.load()
        crews = load_workers(settings)
    except SettingsError as exc:
        say(str(exc))
        return MISUSED
    configure("error")  # everything that a person should know is printed here
    known = {name: name for name in crews} | {crew.worker.message_type: name for name, crew in crews.items()}
    unknown = [name for name in names if name not in known and name != ALL]
    if unknown:
        say(f"There is no model {unknown[0]!r}; there are {', '.join(_with_models(crews))}, and all of them: {ALL}.")
        return MISUSED
    wanted = _with_models(crews) if ALL in names else [known[name] for name in names or [DEFAULT]]
    failed = [name for name in dict.fromkeys(wanted) if not _pulled(name, *crews[name], settings.folders)]
    return FAILED if failed else 0


def _with_models(crews: dict[str, Any]) -> list[str]:
    from workers.base import Worker

    def fetches(worker: type[Worker]) -> bool:
        return any("pull" in vars(cls) for cls in worker.__mro__ if cls is not Worker)

    return [name for name, crew in crews.items() if fetches(crew.worker)]


def _pulled(name: str, worker: Any, settings: Any, folders: Any) -> bool:
    from contract.errors import ServiceError

    if off := settings.switched_off(name):
        say(f"{name} is switched off by {off}; nothing is fetched for it.")
        return True
    say(f"{name}: looking for {getattr(settings, 'model', 'what it needs')}.")
    try:
        worker.pull(settings, folders, say)
    except ServiceError as exc:
        say(exc.message)
        return False
    say(f"{name}: all is here.")
    return True
