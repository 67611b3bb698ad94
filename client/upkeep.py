"""`optivus doctor` and `optivus backup`: what the server of this machine keeps, checked, mended and copied."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import checkout
from .command import FAILED, MISUSED
from .console import say, shown


def add(commands: Any) -> None:
    """The commands' arguments."""
    doctor = commands.add_parser(
        "doctor", help="on the server's machine: check what it keeps, while it is stopped", allow_abbrev=False
    )
    doctor.add_argument("--repair", action="store_true", help="mend what can be mended")
    doctor.set_defaults(run=lambda args: _run(lambda folders: _doctor(folders, args.repair)))
    backup = commands.add_parser(
        "backup", help="on the server's machine: copy what it keeps, also while it runs", allow_abbrev=False
    )
    backup.add_argument("target", type=Path, metavar="TARGET", help="a folder that is not there yet")
    backup.set_defaults(run=lambda args: _run(lambda folders: _backup(folders, args.target)))


def _run(work: Any) -> int:
    """The exit status of what is done with the server's folders."""
    if not checkout.on_path():
        say("This runs on the server's machine, in the folder of its checkout; this is the client alone.")
        return MISUSED
    try:
        from config import Settings, SettingsError
        from storage.ledger import Unusable
        from storage.premises import Busy
    except ImportError as exc:
        say(f"This runs on the server's machine, where requirements.txt is installed ({exc}).")
        return MISUSED
    try:
        status: int = work(Settings.load().folders)
    except (SettingsError, Unusable, Busy) as exc:
        say(str(exc))
        return MISUSED
    except OSError as exc:
        say(f"{exc.filename or 'The disk'}: {exc.strerror}.")
        return FAILED
    return status


def _doctor(folders: Any, repair: bool) -> int:
    """0: all is well, or is now; 1: something is not."""
    from storage.doctor import examine
    from storage.premises import check_all, ledger_of, lock

    ledger_of(folders)
    with lock(folders.data):
        check_all(folders)
        left = found = 0
        for finding in examine(folders, repair):
            print(shown(finding.sentence + (" Mended." if finding.mended else "")))
            sys.stdout.flush()
            found += 1
            left += not finding.mended
    if not found:
        say(f"All is well in {folders.data}.")
    elif left and not repair:
        say("`optivus doctor --repair` mends what can be mended.")
    return FAILED if left else 0


def _backup(folders: Any, target: Path) -> int:
    from storage.backup import backup

    kept = backup(folders, target.absolute())
    for name in kept.gone:
        say(f"{name} was deleted before it could be copied.")
    say(f"{target} has the ledger, {kept.blobs} results, {kept.uploads} uploads and the saved voices.")
    return 0
