"""Paths and files that a stranger may name, each with the error that it must get (promise P13)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

from tests.recordings import EXAMPLE

JFK = EXAMPLE.read_bytes()


@contextmanager
def silent_video(path: Path) -> Iterator[Path]:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    yield path


def bad_paths(server: Path, outside: Path) -> dict[str, tuple[str, str]]:
    """Name → (path, the error it must get).

    server: the folder of one whose only root is its `media`, in which files are laid down. outside: another folder.
    """
    media = server / "media"
    folder = media / "corpus"
    folder.mkdir()
    secret = outside / "secret.wav"
    secret.write_bytes(JFK)
    for link, target in (
        ("out.wav", secret),
        ("outside", outside),
        ("loop.wav", folder / "loop.wav"),
        ("dangling.wav", outside / "absent.wav"),
        ("data.wav", server / "data_dir" / "ledger.sqlite3"),
        ("null.wav", Path("/dev/null")),
    ):
        (folder / link).symlink_to(target)
    os.mkfifo(folder / "pipe.wav")
    (folder / "text.mp3").write_text("This is no music.\n" * 100)
    (folder / "empty.wav").touch()
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (folder / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    with silent_video(folder / "silent.mp4") as video:
        whole = video.read_bytes()
        (folder / "truncated.mp4").write_bytes(whole[: whole.index(b"moov")])
    (folder / "locked.wav").write_bytes(JFK)
    for made in ("fs_path", "path_video", "voices_dir"):
        (server / made).mkdir(exist_ok=True)
        (server / made / "a.wav").write_bytes(JFK)
    return {
        "absent": ("corpus/absent.wav", "FILE_NOT_FOUND"),
        "absent, absolute": (f"{folder}/absent.wav", "FILE_NOT_FOUND"),
        "below a file": ("corpus/text.mp3/x.wav", "FILE_NOT_FOUND"),
        "folder": ("corpus", "INVALID_INPUT"),
        "the root": (".", "INVALID_INPUT"),
        "empty string": ("", "INVALID_INPUT"),
        "named pipe": ("corpus/pipe.wav", "INVALID_INPUT"),
        "outside": (str(secret), "FILE_FORBIDDEN"),
        "outside and absent": (f"{outside}/absent.wav", "FILE_FORBIDDEN"),
        "dots": ("../../../../../../../../etc/passwd", "FILE_FORBIDDEN"),
        "dots within": (f"corpus/../../../{outside.name}/secret.wav", "FILE_FORBIDDEN"),
        "prefix of the root": (f"{media}-other/a.wav", "FILE_FORBIDDEN"),
        "link out": ("corpus/out.wav", "FILE_FORBIDDEN"),
        "below a link out": ("corpus/outside/secret.wav", "FILE_FORBIDDEN"),
        "link out to nothing": ("corpus/dangling.wav", "FILE_FORBIDDEN"),
        "link to itself": ("corpus/loop.wav", "FILE_NOT_FOUND"),
        "link to the ledger": ("corpus/data.wav", "FILE_FORBIDDEN"),
        "link to a device": ("corpus/null.wav", "FILE_FORBIDDEN"),
        "device": ("/dev/zero", "FILE_FORBIDDEN"),
        "standard input": ("/dev/stdin", "FILE_FORBIDDEN"),
        "environment": ("/proc/self/environ", "FILE_FORBIDDEN"),
        "root of the process": (f"/proc/self/root{secret}", "FILE_FORBIDDEN"),
        "open file": ("/proc/self/fd/1", "FILE_FORBIDDEN"),
        "ledger": (f"{server}/data_dir/ledger.sqlite3", "FILE_FORBIDDEN"),
        "secret": (f"{server}/data_dir/secret.key", "FILE_FORBIDDEN"),
        "DATA_DIR, absent": (f"{server}/data_dir/absent", "FILE_FORBIDDEN"),
        "voice": (f"{server}/voices_dir/a.wav", "FILE_FORBIDDEN"),
        "NUL": ("corpus/text.mp3\0.wav", "INVALID_INPUT"),
        "long name": ("x" * 300, "FILE_NOT_FOUND"),
        "long path": ("x/" * 2_000, "FILE_NOT_FOUND"),
        "deep dots": ("a/../" * 800 + "corpus", "INVALID_INPUT"),
        "too long a path": ("x/" * 3_000, "INVALID_INPUT"),
        "URL": ("http://127.0.0.1/a.wav", "INVALID_INPUT"),
        "file URL": ("file:///etc/passwd", "INVALID_INPUT"),
        "FFmpeg protocol": ("concat:corpus/list.mp4|/etc/passwd", "FILE_NOT_FOUND"),
        "home": ("~/.ssh/id_rsa", "FILE_NOT_FOUND"),
        "glob": ("corpus/*.wav", "FILE_NOT_FOUND"),
        "file_id of nobody": ("file_" + "0" * 32, "FILE_NOT_FOUND"),
        "almost a file_id": ("file_/../../data_dir/ledger.sqlite3", "FILE_FORBIDDEN"),
        "text": ("corpus/text.mp3", "UNSUPPORTED_MEDIA"),
        "empty": ("corpus/empty.wav", "UNSUPPORTED_MEDIA"),
        "truncated": ("corpus/truncated.mp4", "UNSUPPORTED_MEDIA"),
        "playlist": ("corpus/list.m3u8", "UNSUPPORTED_MEDIA"),
        "playlist as video": ("corpus/list.mp4", "UNSUPPORTED_MEDIA"),
        "concat as video": ("corpus/concat.mp4", "UNSUPPORTED_MEDIA"),
        "no sound": ("corpus/silent.mp4", "NO_AUDIO"),
    }
