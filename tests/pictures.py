"""Pictures and converted nets for tests of the scanner, and the crops' answers they are held against."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import law
import nets
import numpy as np
import onnx
from done import convert
from numpy.typing import NDArray

Array = NDArray[Any]

TWO_CHANNELS = re.compile(r"\[(\d+),2,(\d+),(\d+)\] (image|w1)")


@cache
def original(name: str, channels: int = 3) -> onnx.ModelProto:
    """A fixture that takes pictures: its two channels are made 1 or 3."""
    text = (nets.FIXTURES / f"{name}.txt").read_text()
    text = TWO_CHANNELS.sub(rf"[\1,{channels},\2,\3] \4", text)
    text = text.replace("float[2,1,1] mean = {121.5,", "float[3,1,1] mean = {121.5, 90.0,")
    return nets.parse(text.replace("float[6,240] w3", "float[6,288] w3"))


@cache
def converted(name: str, channels: int = 3) -> onnx.ModelProto:
    """What `convert` makes of it."""
    return convert(original(name, channels)).proto


def noise(height: int, width: int, channels: int | None = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Seeded random pixels, `[H, W]` or `[H, W, channels]`."""
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def crops(model: onnx.ModelProto, tensor: Array, stride: tuple[int, int], output: str) -> Array:
    """The original's answers on every crop of its input tensor, `[K, rows, cols]`."""
    grid = law.grid_of([tensor.shape[a] for a in law.space_of(model)], law.window_of(model), stride)
    answers = [got[output].reshape(-1) for _, got in law.crops_of(model, tensor, stride)]
    return np.stack(answers, axis=-1).reshape(-1, *grid)


def nchw(to_input: Callable[[Array], Array] = lambda x: x / 255) -> Callable[[Array], Array]:
    """From pixels `[H, W, C]` to the batch of one that a channels-first net takes, values by `to_input`."""
    return lambda pixels: to_input(pixels).astype(np.float32).transpose(2, 0, 1)[None].copy()
