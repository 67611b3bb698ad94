"""Pictures as the model sees them, in the two halves of the checkpoint's image processor.

Picture ─▶ resized(): uint8, with the task ─▶ seen(): a batch on the device, scaled and normalised there
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Resized = npt.NDArray[np.uint8]
"""uint8, (height, width, 3), RGB."""


class Pixels:
    """What the image processor of a Florence-2 does to pictures. Raises: ValueError, where it is no Florence's."""

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.size = (processor.size["width"], processor.size["height"])
        self._resample = Image.Resampling(int(processor.resample))
        if None in self.size or processor.do_center_crop or not processor.do_resize:
            raise ValueError("the image processor does not resize pictures to one size")
        self._scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
        self._mean, self._std = (torch.tensor(of, device=device)[:, None, None] for of in (mean, std))
        self._device, self._dtype = device, dtype
        self._pinned = torch.empty(0, dtype=torch.uint8)

    def resized(self, image: Image.Image) -> Resized:
        """image: RGB. Safe beside anything else."""
        return np.asarray(image.resize(self.size, self._resample))

    def seen(self, pictures: Sequence[Resized]) -> Tensor:
        """(pictures, 3, height, width), in the model's type; computed as float32."""
        moved = self._moved(pictures).permute(0, 3, 1, 2).float()
        return moved.mul_(self._scale).sub_(self._mean).div_(self._std).to(self._dtype)

    def _moved(self, pictures: Sequence[Resized]) -> Tensor:
        """On the device; a GPU fetches each while the next is laid out. What was laid out before must have arrived."""
        if self._device.type == "cpu":
            return torch.from_numpy(np.stack(pictures))
        shape = (len(pictures), *pictures[0].shape)
        if len(self._pinned) < len(pictures):
            self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        moved = torch.empty(shape, dtype=torch.uint8, device=self._device)
        for row, picture in enumerate(pictures):
            np.copyto(self._pinned[row].numpy(), picture)
            moved[row].copy_(self._pinned[row], non_blocking=True)
        return moved
