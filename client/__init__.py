"""The Python client of an Optivus server, and the `optivus` command.

    from optivus import Client

    with Client("http://127.0.0.1:5000") as client:
        print(client.transcribe("talk.mp3")["transcribe_audio"]["text"])

`AsyncClient` has the same names to await. Nothing here needs the server's own dependencies.
"""

from .aio import AsyncClient
from .errors import Cancelled, OptivusError, ServerUnreachable
from .events import Audio, Event, Final, JobInfo, Partial, Progress, Voice, WaitingFor
from .job import AsyncJob
from .listener import AsyncListener
from .sync import Client, Job, Listener
from .warn import OptivusWarning

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "AsyncListener",
    "Audio",
    "Cancelled",
    "Client",
    "Event",
    "Final",
    "Job",
    "JobInfo",
    "Listener",
    "OptivusError",
    "OptivusWarning",
    "Partial",
    "Progress",
    "ServerUnreachable",
    "Voice",
    "WaitingFor",
]
