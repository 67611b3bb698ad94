"""Finding Florence's weights: local first, in either layout, and a sentence that says what to do otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from contract.errors import ModelUnavailable
from tests.checkpoints_florence import SENTENCE, make_native, make_original
from tests.drive import Recorder, drive, folders
from tests.shapes import drawing
from tests.test_whisper_weights import in_hub_cache
from workers.florence.conversion import SPECIAL_TOKENS, renamed
from workers.florence.params import FlorenceSettings
from workers.florence.weights import NATIVE, locate
from workers.florence.worker import Florence


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_native(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def original(native: Path) -> Path:
    """In the layout of Microsoft's code."""
    return make_original(native.with_name("original"), native)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own switch."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_native_folder_is_used_as_it_is(native: Path, tmp_path: Path) -> None:
    assert locate(str(native), folders(tmp_path)) == native.resolve()
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("pickled", [False, True])
def test_microsofts_layout_is_converted_once_and_exactly(native: Path, tmp_path: Path, pickled: bool) -> None:
    """Every number is the same, tied copies or not, and code in the folder is not run."""
    from safetensors.torch import load_file

    source = make_original(tmp_path / "original", native, pickled=pickled)
    kept = locate(str(source), folders(tmp_path))
    assert kept.is_relative_to(tmp_path / "models")
    before, after = (load_file(folder / "model.safetensors") for folder in (native, kept))
    assert before.keys() == after.keys()
    shared = "model.language_model.shared.weight"
    rows = json.loads((source / "config.json").read_text())["vocab_size"]
    assert all(before[name].equal(after[name]) for name in before if name != shared)
    assert before[shared][:rows].equal(after[shared][:rows])
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    written = (kept / "model.safetensors").stat().st_mtime_ns
    assert locate(str(copy), folders(tmp_path)) == kept
    assert (kept / "model.safetensors").stat().st_mtime_ns == written
    assert not list(kept.glob("*.py"))


def test_converted_checkpoint_answers_with_its_own_search(original: Path, tmp_path: Path) -> None:
    worker = Florence(FlorenceSettings(model=str(original), threads=1), folders(tmp_path))
    facts = worker.load()
    assert facts == {"device": facts["device"], "model": "original", "batch": worker.batch}
    assert (worker._model.generation.num_beams, worker._model.generation.no_repeat_ngram_size) == (3, 3)
    drawing("red circle").image().save(tmp_path / "a.png")
    result, _ = drive(worker, {"file": tmp_path / "a.png", "prompt": "<OD>"}, Recorder(tmp_path))
    assert result["transcribe_img"]["text"] == SENTENCE
    assert len(result["transcribe_img"]["regions"]) == 1


def test_the_models_tokens_are_those_that_its_code_adds() -> None:
    """51 265 tokens of BART's less 1000, and these, are the 51 289 that every Florence-2 has."""
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 51_289 - 50_265
    assert SPECIAL_TOKENS[4] == "<loc_0>"


def test_names_follow_the_published_table() -> None:
    tower = "vision_tower.blocks.2.8"
    assert renamed(f"{tower}.spatial_block.window_attn.fn.qkv.weight") == (
        f"model.{tower}.spatial_block.window_attn.qkv.weight"
    )
    assert renamed(f"{tower}.channel_block.ffn.fn.net.fc2.bias") == f"model.{tower}.channel_block.ffn.fc2.bias"
    assert renamed(f"{tower}.channel_block.channel_attn.norm.bias") == f"model.{tower}.channel_block.norm1.bias"
    assert renamed("vision_tower.convs.1.proj.weight") == "model.vision_tower.convs.1.conv.weight"
    assert renamed("vision_tower.convs.1.norm.weight") == "model.vision_tower.convs.1.norm.weight"
    assert renamed("language_model.model.encoder.layers.0.fc1.weight") == (
        "model.language_model.encoder.layers.0.fc1.weight"
    )
    with pytest.raises(ValueError, match="no weight"):
        renamed("text_encoder.weight")


def test_damaged_checkpoints_are_unavailable_and_leave_nothing(original: Path, tmp_path: Path) -> None:
    for file, content in {
        "model.safetensors": b"x" * 100,
        "tokenizer.json": b"{}",
        "config.json": b'{"model_type": "florence2", "vision_config": {"dim_embed": [1]}, "text_config": {}}',
        "preprocessor_config.json": None,
    }.items():
        damaged = Path(shutil.copytree(original, tmp_path / file))
        (damaged / file).unlink()
        if content is not None:
            (damaged / file).write_bytes(content)
        with pytest.raises(ModelUnavailable, match="AI_FLORENCE_MODEL"):
            locate(str(damaged), folders(tmp_path))
    assert not [path for path in (tmp_path / "models" / "converted").iterdir() if path.is_dir()]


def test_another_model_is_refused_by_name(native: Path, tmp_path: Path) -> None:
    for content in (b'{"model_type": "clip"}', b"[]", b"{"):
        other = Path(shutil.copytree(native, tmp_path / str(len(content))))
        (other / "config.json").write_bytes(content)
        with pytest.raises(ModelUnavailable, match="not a Florence-2 model"):
            locate(str(other), folders(tmp_path))


def test_damaged_native_checkpoint_is_unavailable(native: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(native, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelUnavailable, match="AI_FLORENCE_MODEL"):
        Florence(FlorenceSettings(model=str(damaged)), folders(tmp_path)).load()


@pytest.mark.usefixtures("offline")
def test_microsofts_names_mean_the_same_weights_for_transformers(native: Path, original: Path, tmp_path: Path) -> None:
    assert NATIVE["microsoft/Florence-2-base"] == "florence-community/Florence-2-base"
    cache = tmp_path / "models" / "hub"
    own = in_hub_cache(cache, "microsoft/Florence-2-large", original)
    assert locate("microsoft/Florence-2-large", folders(tmp_path)).parent == tmp_path / "models" / "converted"
    kept = in_hub_cache(cache, "florence-community/Florence-2-large", native)
    assert locate("microsoft/Florence-2-large", folders(tmp_path)) == kept
    assert own != kept


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/has-this", "microsoft/Florence-2-huge", "bad name!", "/no/such/folder"])
def test_wrong_name_says_which_setting_to_change(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable, match="AI_FLORENCE_MODEL") as refused:
        locate(name, folders(tmp_path))
    assert "optivus models pull" in refused.value.message
