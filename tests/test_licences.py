"""README names the licences of what is used, as the packages themselves do; who would sell a voice is warned."""

from __future__ import annotations

import importlib.metadata
import re

import pytest

from tests.servers import ROOT
from workers.fish.params import LICENCE

README = (ROOT / "README.md").read_text()
UNFREE = "CC-BY-NC-SA-4.0"


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)^##", README + "\n##", re.DOTALL | re.MULTILINE)
    assert found, f"README has no section {title}"
    return found[1]


@pytest.mark.parametrize("text", [section("Speech"), section("Licences"), LICENCE], ids=["speech", "licences", "pull"])
def test_the_voice_is_said_to_be_for_no_commercial_use(text: str) -> None:
    assert UNFREE in text
    assert re.search("not for commercial use|non-commercial use only", text)


@pytest.mark.parametrize(
    ("package", "licence"),
    [
        ("fish-speech", "Apache-2.0"),
        ("descript-audio-codec", "MIT"),
        ("faster-whisper", "MIT"),
        ("ctranslate2", "MIT"),
        ("onnxruntime", "MIT"),
        ("transformers", "Apache"),
        ("yt-dlp", "Unlicense"),
        ("imageio-ffmpeg", "BSD-2-Clause"),
        ("av", "BSD-3-Clause"),
    ],
)
def test_a_packages_licence_is_the_one_in_its_metadata(package: str, licence: str) -> None:
    try:
        metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert licence in (metadata["License-Expression"] or metadata["License"])
    assert re.search(rf"{'PyAV' if package == 'av' else package}.*{licence}", section("Licences"), re.IGNORECASE)
