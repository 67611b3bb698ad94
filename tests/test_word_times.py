"""Word times of real recordings, by real weights: phrases cut and joined with pauses, with and without a glossary.

No word is without a length, lies outside what is said, or stands for nothing, and no cue ends before its last word.
"""

from __future__ import annotations

import json
import os
import random
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pysubs2
import pytest

from media.audio import SAMPLE_RATE, Audio, decode
from tests.accuracy import words as spelled
from tests.drive import Recorder, drive, folders
from tests.recordings import write
from workers.whisper.worker import Whisper, WhisperSettings

MODELS = Path(os.environ.get("OPTIVUS_TEST_MODELS", "nowhere"))
SPEECH = MODELS.parent / "media" / "speech"
CASES = MODELS.parent / "cases"
CLIPS = json.loads((SPEECH / "transcripts.json").read_text()) if (SPEECH / "transcripts.json").is_file() else []
TIMED = [clip for clip in CLIPS if "words" in clip and clip["language"] != "ja"]

pytestmark = pytest.mark.skipif(not (MODELS / "whisper-base").is_dir(), reason="OPTIVUS_TEST_MODELS has no Whisper")

TERMS = """
Kubernetes Terraform Ansible Prometheus Grafana PostgreSQL RabbitMQ Kafka Cassandra Elasticsearch Kibana Logstash
Jenkins GitLab Bitbucket Jira Confluence Snowflake Databricks Airflow Spark Hadoop Zookeeper Consul Vault Nomad Istio
Envoy Linkerd Helm Argo Flux Tekton Knative OpenShift Rancher Docker Podman Containerd Buildah Skopeo Quay Harbor Nexus
Artifactory SonarQube Snyk Trivy Falco Cilium Pulumi Packer Boundary Waypoint Teleport Okta Keycloak Dex Hydra Kratos
Supabase Firebase Hasura Prisma Drizzle Vercel Netlify Fastly Akamai Cloudflare Datadog Splunk Sumo Honeycomb Lightstep
Jaeger Zipkin Tempo Loki Mimir Thanos Cortex Victoria Influx Timescale Clickhouse Druid Pinot Trino Presto Iceberg Delta
Hudi Flink Beam Samza Storm Pulsar Nats Redpanda
"""


def glossary(terms: int) -> dict[str, str]:
    """Hotwords of so many terms."""
    return {"hotwords": ", ".join(TERMS.split()[:terms])} if terms else {}


@pytest.fixture(scope="module", params=["tiny", "base"])
def whisper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    settings = WhisperSettings(model=str(MODELS / f"whisper-{request.param}"), threads=1)
    worker = Whisper(settings, folders(tmp_path_factory.mktemp("data")))
    worker.load()
    return worker


class Joined(NamedTuple):
    """truth: the words of `audio`, as transcripts.json has them. spoken: where somebody speaks, in seconds."""

    audio: Audio
    truth: list[dict[str, Any]]
    spoken: list[tuple[float, float]]


def joined(clip: dict[str, Any], chance: random.Random) -> Joined:
    """A clip cut at some of the gaps between its words, joined again with pauses of 0.3 to 2.5 s, and soft noise."""
    sound = np.concatenate(list(decode(SPEECH / clip["file"])))
    groups: list[list[dict[str, Any]]] = [[]]
    for word in clip["words"]:
        if groups[-1] and word["start"] - groups[-1][-1]["end"] >= 0.12 and chance.random() < 0.4:
            groups.append([])
        groups[-1].append(word)
    parts = [np.zeros(int(chance.choice([0.1, 0.3, 1.5]) * SAMPLE_RATE), np.float32)]
    truth, spoken = [], []
    for group in groups:
        first, last = (
            max(0, int((group[0]["start"] - 0.06) * SAMPLE_RATE)),
            int((group[-1]["end"] + 0.06) * SAMPLE_RATE),
        )
        at = sum(len(part) for part in parts)
        truth += [{**word, "start": word["start"] + (at - first) / SAMPLE_RATE} for word in group]
        spoken.append((at / SAMPLE_RATE, (at + last - first) / SAMPLE_RATE))
        pause = int(chance.choice([0.3, 0.5, 0.7, 0.9, 1.2, 1.6, 1.9, 2.5]) * SAMPLE_RATE)
        parts += [sound[first:last], np.zeros(pause, np.float32)]
    audio = np.concatenate(parts)
    noise = np.random.default_rng(0).standard_normal(len(audio)) * chance.choice([0, 1e-4, 1e-3])
    return Joined((audio + noise).astype(np.float32), truth, spoken)


def check_words(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every word has a length, in order, within its chunk, which begins and ends with its words. Returns the words."""
    last = 0.0
    for chunk in result["chunks"]:
        assert chunk["words"], chunk
        assert (chunk["start"], chunk["end"]) == (chunk["words"][0]["start"], chunk["words"][-1]["end"])
        assert "".join(word["word"] for word in chunk["words"]).strip() == chunk["text"]
        for word in chunk["words"]:
            assert last <= word["start"] < word["end"], word
            assert any(character.isalnum() for character in word["word"])
            last = word["end"]
    return [word for chunk in result["chunks"] for word in chunk["words"]]


def heard(worker: Whisper, file: Path, folder: Path, **asked: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    result, _ = drive(worker, {"file": file, "word_timestamps": True, "formats": ["srt"], **asked}, Recorder(folder))
    words = check_words(result)
    cues = pysubs2.SSAFile.from_string(result["exports"]["srt"])
    ends = [cue.end / 1000 for cue in cues]
    assert all(any(abs(end - chunk["end"]) < 0.01 or end > chunk["end"] for end in ends) for chunk in result["chunks"])
    return result, words


def test_words_of_joined_phrases_lie_in_their_phrases(whisper: Whisper, tmp_path: Path) -> None:
    """With glossaries of none to 100 terms; tiny hears two of each.

    Of the words that are recognised, those that stand in the wrong phrase are few: a short word beside a pause may.
    """
    right = wrong = invented = 0
    rounds = 2 if "tiny" in whisper.settings.model else 1
    for number, terms in enumerate([0, 10, 30, 50, 100] * rounds):
        chance = random.Random(number)
        clip = TIMED[number % len(TIMED)]
        scene = joined(clip, chance)
        file = write(tmp_path / "joined.wav", scene.audio, rate=SAMPLE_RATE)
        _, words = heard(whisper, file, tmp_path, language=clip["language"], **glossary(terms))
        for word in words:
            nearest = min(max(start - word["start"], word["end"] - end) for start, end in scene.spoken)
            assert nearest <= 0.3, (number, word, scene.spoken)
        true, found = (["".join(spelled(word["word"])) for word in side] for side in (scene.truth, words))
        for kind, i, j, k, stop in SequenceMatcher(None, true, found, autojunk=False).get_opcodes():
            if kind == "equal":
                errors = [abs(scene.truth[i + n]["start"] - words[k + n]["start"]) for n in range(j - i)]
                right += sum(error <= 0.5 for error in errors)
                wrong += sum(error > 0.5 for error in errors)
            elif kind == "insert":
                invented += stop - k
    assert right > 45 * rounds
    assert wrong <= 0.04 * right
    assert invented <= 0.04 * right


def test_the_last_word_after_a_pause_is_where_it_is_said(whisper: Whisper, tmp_path: Path) -> None:
    """And no word follows it."""
    result, words = heard(whisper, CASES / "last_word_after_pause.wav", tmp_path)
    assert spelled(result["text"]) == ["i", "have", "here", "a", "pendulum"]
    assert (words[-1]["start"], words[-1]["end"]) == (pytest.approx(2.37, abs=0.2), pytest.approx(3.01, abs=0.2))


@pytest.mark.parametrize("terms", [0, 10, 30, 50, 100])
def test_a_glossary_moves_no_words(whisper: Whisper, tmp_path: Path, terms: int) -> None:
    """Every word that is recognised lies in its phrase."""
    phrases = {"ever tried": (0.32, 1.18), "ever failed": (1.89, 2.78), "no matter": (3.55, 4.16)}
    phrases |= {"try again": (4.93, 5.57), "fail again": (6.66, 7.36), "fail better": (8.16, 8.83)}
    said = [(word, span) for phrase, span in phrases.items() for word in phrase.split()]
    _, words = heard(whisper, CASES / "phrases_short.flac", tmp_path, **glossary(terms))
    found = ["".join(spelled(word["word"])) for word in words]
    matches = SequenceMatcher(None, [word for word, _ in said], found, autojunk=False).get_matching_blocks()
    pairs = [(said[match.a + n][1], words[match.b + n]) for match in matches for n in range(match.size)]
    assert len(pairs) >= 8
    for (start, end), word in pairs:
        assert start - 0.2 <= word["start"] < word["end"] <= end + 0.2


def test_the_text_is_the_same_with_words_and_without(whisper: Whisper, tmp_path: Path) -> None:
    for name in ("last_word_after_pause.wav", "phrases_short.flac"):
        result, _ = heard(whisper, CASES / name, tmp_path)
        alone, _ = drive(whisper, {"file": CASES / name}, Recorder(tmp_path))
        assert [chunk["text"] for chunk in alone["chunks"]] == [chunk["text"] for chunk in result["chunks"]]
        for chunk, timed in zip(alone["chunks"], result["chunks"], strict=True):
            assert abs(chunk["start"] - timed["start"]) <= 0.3
            assert abs(chunk["end"] - timed["end"]) <= 0.3


def test_words_without_a_voice_detector_lie_in_sound_too(whisper: Whisper, tmp_path: Path) -> None:
    scene = joined(TIMED[0], random.Random(1))
    file = write(tmp_path / "joined.wav", scene.audio, rate=SAMPLE_RATE)
    _, words = heard(whisper, file, tmp_path, vad=False)
    assert len(words) > 10
    for word in words:
        assert min(max(start - word["start"], word["end"] - end) for start, end in scene.spoken) <= 0.3, word
