"""The published checkpoints' files, and where they are; torch is not needed to look for them."""

from __future__ import annotations

from contract.errors import ModelUnavailable
from contract.folders import Folders
from workers.fish.params import SETTING
from workers.runtime.hub import Found, Layout, Say, Wanted, find

INSTALL = "pip install --no-deps -r requirements-fish.txt"

_LLAMA = ("config.json", "model.pth", "tokenizer.tiktoken", "special_tokens.json")
FIREFLY = "firefly-gan-vq-fsq-8x1024-21hz-generator.pth"
DAC = "codec.pth"
FISH_SPEECH_15 = Layout("fish-speech 1.5", (*_LLAMA, FIREFLY))
OPENAUDIO_S1 = Layout("OpenAudio S1", (*_LLAMA, DAC))


def wanted(name: str) -> Wanted:
    return Wanted(name, "fish", SETTING, (name,), (FISH_SPEECH_15, OPENAUDIO_S1))


def locate(name: str, folders: Folders, say: Say = None) -> Found:
    """A folder in the published layout. name: a hub id or a local folder. Raises: ModelUnavailable."""
    return find(wanted(name), folders, say)


def require_package() -> None:
    """Raises: ModelUnavailable, with the command that installs it."""
    try:
        import fish_speech.tokenizer  # noqa: F401
    except ImportError as exc:
        raise ModelUnavailable(
            f"Speech needs the fish-speech package, which is not installed on this server. Run: {INSTALL}"
        ) from exc
