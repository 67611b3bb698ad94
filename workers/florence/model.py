"""A Florence-2 on its device: resized pictures and questions in, the tokens of its answers out.

    pictures ─▶ vision tower, all at once ─┐
    questions ─▶ tokens ─▶ embeddings ─────┴▶ encoder ─▶ Writer ─▶ tokens

Where the checkpoint's search asks for something that ours does not know, transformers' `generate` writes instead.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from workers.florence.beams import Rules
from workers.florence.pixels import Pixels, Resized
from workers.florence.writing import Writer
from workers.runtime.cuda_graphs import CudaGraphs
from workers.runtime.failing import ran_out

log = structlog.get_logger()

Question = tuple[int, ...]
"""A prompt's tokens, as they follow those of the picture."""

MAX_NEW_TOKENS = 1024
"""Longest answer in tokens, where the checkpoint does not say."""
_GPU_BATCH = 32
"""Pictures at once on a GPU that has the memory; more make answers later and hardly more of them."""
_CPU_BATCH = 8
_LAYERS_AT_ONCE = 12
"""So many times the first stage's output is what the vision tower holds at its widest: mostly the MLP's, four times as
wide, before and after its activation."""
_QUESTIONS = 4096
"""Questions whose tokens are kept."""


class Model:
    """Raises: whatever reading a damaged or foreign checkpoint raises."""

    def __init__(self, path: Path, device: torch.device, search: Mapping[str, int | None]) -> None:
        """search: what the operator wants otherwise than the checkpoint, by name of the generation setting, or None."""
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._device = device
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, local_files_only=True)
        self._model = model.to(device).eval()
        self._text = model.config.text_config
        self._image_token, self._image_tokens = processor.image_token, processor.num_image_tokens
        self._image_token_id, self._pad = model.config.image_token_id, self._text.pad_token_id
        self._tokenizer = processor.tokenizer
        self._tokenizer.backend_tokenizer.no_truncation()
        self._tokenizer.backend_tokenizer.no_padding()
        self.pixels = Pixels(processor.image_processor, device, dtype)
        self.question = functools.lru_cache(_QUESTIONS)(self._question)
        self.generation = _searching(model, search)
        self._writer = self._own_writer()

    def _own_writer(self) -> Writer | None:
        rules = Rules.of(self.generation)
        if rules is None:
            log.info("search_of_transformers", worker="florence", asked=str(self.generation.to_diff_dict()))
            return None
        with torch.inference_mode():
            return Writer(self._model, rules, self._device)

    def ready(self, batch: int | None) -> int:
        """Be ready for batches of so many pictures, None: as many as the device is good for. Gives: how many.

        Raises: torch.OutOfMemoryError.
        """
        if self._device.type != "cuda":
            return batch or _CPU_BATCH
        batch = batch or self._fitting()
        while not self._rehearsed(batch):
            batch //= 2
            torch.cuda.empty_cache()
        return batch

    def _rehearsed(self, batch: int) -> bool:
        """Whether the memory suffices for so many pictures, which it takes now and not at the first request."""
        picture = np.zeros((*reversed(self.pixels.size), 3), np.uint8)
        try:
            with torch.inference_mode():
                if self._writer is not None:
                    recorded = CudaGraphs(self._device).recorded
                    self._writer.record(recorded, batch, self._image_tokens, self._text.max_position_embeddings)
                self._encoded(self.pixels.seen([picture] * batch), *self._asked([self.question("")] * batch))
                torch.cuda.synchronize(self._device)
        except Exception as exc:
            if batch == 1 or not ran_out(exc):
                raise
            log.warning("batch_halved", worker="florence", size=batch, error=str(exc))
            return False
        return True

    def _fitting(self) -> int:
        """The pictures for which half of the free memory is enough: a power of two."""
        vision, itemsize = self._model.config.vision_config, self._model.dtype.itemsize
        width, height = self.pixels.size
        places = (width // vision.patch_stride[0]) * (height // vision.patch_stride[0])
        looking = _LAYERS_AT_ONCE * places * vision.embed_dim[0] * itemsize
        written = (self.generation.num_beams or 1) * self.generation.max_new_tokens * 4 // 3  # on desks of all lengths
        tokens = written + self._text.max_position_embeddings
        writing = tokens * self._text.d_model * self._text.decoder_layers * 2 * itemsize
        free, _ = torch.cuda.mem_get_info(self._device)
        fitting = max(1, free // 2 // (looking + writing))
        return int(min(_GPU_BATCH, 1 << (fitting.bit_length() - 1)))

    def room(self) -> int:
        """The most tokens of a question."""
        return int(self._text.max_position_embeddings - self._image_tokens)

    def _question(self, sentence: str) -> Question:
        """As the checkpoint's processor makes them. Safe beside anything else."""
        tokenizer = self._tokenizer
        text = f"{self._image_token}{tokenizer.bos_token}{sentence}{tokenizer.eos_token}"
        return tuple(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids[1:])

    def text(self, tokens: Sequence[int]) -> str:
        """What was written, with its special tokens. Safe beside anything else."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return text

    def answers(self, pictures: Sequence[Resized], questions: Sequence[Question]) -> list[list[int]]:
        """The tokens that the model writes, without those that start and end an answer."""
        with torch.inference_mode():
            ids, there = self._asked(questions)
            pixels = self.pixels.seen(pictures)
            if self._writer is None:
                return self._generated(pixels, ids, there)
            return self._writer.write(*self._encoded(pixels, ids, there))

    def _asked(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """Tokens, filled up to the longest, and where there are any: (questions, tokens)."""
        longest = max(map(len, questions))
        ids = torch.tensor([(*question, *[self._pad] * (longest - len(question))) for question in questions])
        lengths = torch.tensor([len(question) for question in questions])
        there = torch.arange(longest) < lengths[:, None]
        return ids.to(self._device), there.to(self._device)

    def _encoded(self, pixels: Tensor, ids: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output, (pictures, tokens, width), and where it is of something."""
        model = self._model.model
        seen = model.multi_modal_projector(model.vision_tower(pixels).last_hidden_state)
        there = torch.cat((there.new_ones(seen.shape[:2]), there), 1)
        inputs = torch.cat((seen, model.language_model.encoder.embed_tokens(ids)), 1)
        encoded = model.language_model.encoder(inputs_embeds=inputs, attention_mask=there.long())
        return encoded.last_hidden_state, there

    def _generated(self, pixels: Tensor, ids: Tensor, there: Tensor) -> list[list[int]]:
        images = ids.new_full((len(ids), self._image_tokens), self._image_token_id)
        ids, mask = torch.cat((images, ids), 1), torch.cat((images > -1, there), 1).long()
        written = self._model.generate(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, generation_config=self.generation
        )
        return [list(answer) for answer in written[:, 1:].tolist()]


def _searching(model: Any, search: Mapping[str, int | None]) -> Any:
    """The checkpoint's configuration with the operator's settings. No answer is longer than the model can count."""
    chosen = model.generation_config
    for name, value in search.items():
        if value is not None:
            setattr(chosen, name, value)
    most = model.config.text_config.max_position_embeddings - 1
    chosen.max_new_tokens = min(chosen.max_new_tokens or MAX_NEW_TOKENS, most)
    return chosen
