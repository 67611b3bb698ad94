"""What the published 1.5 code makes of a tiny model, for tests/test_dual_ar.py: prompts and codes.

    PYTHONPATH=<checkout of fishaudio/fish-speech at v1.5.1, 58046ea> .venv/bin/python -m tests.make_fish_fixtures

It needs that checkout first on the path, and what its modules import. Words get no chance there, as with us.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.checkpoints_fish import make_fish

FIXTURES = Path(__file__).parent / "fixtures" / "fish_15.json"
CASES: dict[str, dict[str, Any]] = {
    "plain": {"text": "Hello, all is well.", "seed": 7, "temperature": 0.7, "top_p": 0.7, "repetition_penalty": 1.2},
    "cloned": {
        "text": "Well \u2018said\u2019.",
        "seed": 8,
        "temperature": 1.0,
        "top_p": 0.9,
        "repetition_penalty": 1.5,
    },
}
REFERENCE = "Hello  there,, you."
FRAMES = 24
"""More than the window of the repetition penalty."""


def reference_codes() -> torch.Tensor:
    """(8, 9)."""
    return (torch.arange(72).reshape(8, 9) * 131) % 1024


def say_only(model: Any, special: dict[str, int]) -> None:
    """Takes from a published model all logits but those of the semantic tokens and of the end."""
    forward = model.forward_generate
    spoken = torch.tensor([number for name, number in special.items() if name.startswith(("<|semantic", "<|im_end"))])

    def masked(*args: Any, **options: Any) -> Any:
        made = forward(*args, **options)
        logits = torch.full_like(made.logits, -torch.inf)
        logits[..., spoken] = made.logits[..., spoken]
        made.logits = logits
        return made

    model.forward_generate = masked


def main() -> None:
    from fish_speech.models.text2semantic import inference

    prompts: list[torch.Tensor] = []
    published = inference.generate

    def recorded(**options: Any) -> torch.Tensor:
        prompts.append(options["prompt"])
        return published(**options)

    inference.generate = recorded
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        model, decode = inference.load_model(make_fish(Path(folder) / "1.5", "1.5"), "cpu", torch.float32)
        say_only(model, json.loads((Path(folder) / "1.5" / "special_tokens.json").read_text()))
        model.setup_caches(max_batch_size=1, max_seq_len=model.config.max_seq_len, dtype=torch.float32)
        for name, case in CASES.items():
            cloned = (
                {"prompt_text": [REFERENCE], "prompt_tokens": [reference_codes().int()]} if name == "cloned" else {}
            )
            options = {key: value for key, value in case.items() if key != "seed"}
            torch.manual_seed(case["seed"])
            long = inference.generate_long(
                model=model, device="cpu", decode_one_token=decode, max_new_tokens=FRAMES, **options, **cloned
            )
            found[name] = {"codes": next(long).codes.tolist(), "prompt": prompts[-1].tolist()}
    FIXTURES.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
