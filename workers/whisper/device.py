"""Where Whisper computes, in what type, and what that device has left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import structlog

from contract.errors import ModelUnavailable
from workers.runtime.device import on_device
from workers.whisper.cuda import load_libraries, named_in, without
from workers.whisper.tokens import MAX_TOKENS

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

log = structlog.get_logger()

_POSITIONS, _BYTES = 1500, 2
"""Of a piece's sound; bytes of a number in half precision."""
_LAYERS = {384: 4, 512: 6, 768: 12, 1024: 24, 1280: 32}
"""The decoder's, of the published models by their width (Radford et al. 2022, table 1); turbo has fewer."""
_FEWEST_PIECES, _MOST_PIECES = 8, 32
"""Where the memory is not known; and however much there is, because who comes waits until a batch is over."""

NOT_USED = "The GPU could not be used, so this model computes on the CPU; the server's log has the reason."


def load_on(setting: str, load: Callable[[str, int], None]) -> str | None:
    """Call `load` with CTranslate2's device and its index, as the setting says; see `runtime.device.on_device`.

    Returns why a GPU that is there is not used.
    """
    import ctranslate2

    unused = on_device(setting, "whisper", ctranslate2.get_cuda_device_count() > 0, load).unused
    return None if unused is None else _told(unused)


def _told(exc: Exception) -> str:
    if library := named_in(exc):
        return without(library).message
    return exc.message if isinstance(exc, ModelUnavailable) else NOT_USED


@contextlib.contextmanager
def naming_library() -> Iterator[None]:
    """Raises: ModelUnavailable, where what goes wrong within names a library that is not there."""
    try:
        yield
    except Exception as exc:
        if library := named_in(exc):
            log.error("library_missing", worker="whisper", error=str(exc))
            raise without(library) from exc
        raise


def check_cuda() -> None:
    """Whether CTranslate2 can compute on a GPU. Raises: ModelUnavailable, which says what is missing."""
    import ctranslate2

    if ctranslate2.get_cuda_device_count() == 0:
        raise ModelUnavailable(
            "WHISPER_DEVICE asks for a GPU, and this machine has none that an NVIDIA driver shows. Set WHISPER_DEVICE "
            "to auto or cpu."
        )
    if library := load_libraries():
        raise without(library)


def write_once(model: WhisperModel) -> int:
    """Hear a second of silence and write one token: what a device or a library cannot do shows here.

    Returns the width of what the model encodes. CTranslate2 opens the libraries of CUDA only when it first computes.
    Raises: RuntimeError, by CTranslate2.
    """
    import numpy as np

    encoded = model.model.encode(storage([np.zeros((1, model.model.n_mels, 100), np.float32)]), to_cpu=False)
    start = model.hf_tokenizer.token_to_id("<|startoftranscript|>")
    model.model.generate(encoded, [[start]], max_length=2, beam_size=1)
    return int(encoded.shape[-1])


def storage(rows: list[Any]) -> Any:
    """CTranslate2's view of arrays joined at their first axis."""
    import ctranslate2
    import numpy as np

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(np.concatenate(rows)))


def compute_type(setting: str, device: str, index: int) -> str:
    """`auto`: float16 on CUDA, or what an older card has instead; int8 on the CPU."""
    import ctranslate2

    if setting != "auto":
        return setting
    if device == "cpu":
        return "int8"
    has = ctranslate2.get_supported_compute_types(device, index)
    return next((kind for kind in ("float16", "int8_float32") if kind in has), "default")


def free_memory(cuda: int | None) -> int | None:
    """Bytes of a CUDA device that nobody uses. CTranslate2 does not tell; a torch without CUDA does not know."""
    if cuda is None:
        return None
    import torch

    return torch.cuda.mem_get_info(cuda)[0] if torch.cuda.is_available() else None


def stays_on(cuda: int | None) -> bool:
    """Whether what is encoded can stay on the device: torch puts its rows together there, if it can compute on it."""
    if cuda is None:
        return False
    import torch

    try:
        row = torch.ones(1, 2, dtype=torch.float16, device=f"cuda:{cuda}")
        return bool(torch.cat([row, row]).all())
    except (RuntimeError, AssertionError) as exc:  # a torch without CUDA asserts that there is none
        log.info("encoded_on_the_cpu", worker="whisper", reason=str(exc))
        return False


def pieces_that_fit(width: int, free: int | None, beam_size: int) -> int:
    """How many pieces a GPU takes at once, if half of its free memory is left to others and to what pieces keep.

    A piece takes the decoder's keys and values, of its sound and of its text in every beam, and what the encoder keeps
    for a moment: the attention of each head of 64, and a dozen states. width: of what the model encodes. free: bytes,
    None if that is not known.
    """
    if free is None:
        return _FEWEST_PIECES
    layers = _LAYERS.get(width, max(_LAYERS.values()))
    sound, text = 2 * layers * _POSITIONS * width, 2 * layers * MAX_TOKENS * width * beam_size
    passing = _POSITIONS**2 * width // 64 + 12 * _POSITIONS * width
    return max(1, min(_MOST_PIECES, free // 2 // (_BYTES * (sound + text + passing))))


def cores() -> int:
    """The cores that this process may use; in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
