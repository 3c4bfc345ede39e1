"""The oracles of geometry: what a pixel reaches, and what the border of a window reaches."""

from __future__ import annotations

from collections.abc import Sequence

import law
import numpy as np
import onnx
from numpy.typing import NDArray

BRIGHT = 1000.0  # what surrounds a window, against values of about 1 inside


def poked(model: onnx.ModelProto, tensor: str, size: Sequence[int], axis: int) -> NDArray[np.bool_]:
    """Which cells along a spatial axis change when a whole line of pixels across it is lit.

    Returns `[pixels, cells]`. The weights must be positive and without bias: then a dark image gives 0
    everywhere and every cell that sees a lit pixel gives more.
    """
    dims = list(law.image_dims(model))
    dims[0] = size[axis]
    for spatial, side in zip(law.space_of(model), size, strict=True):
        dims[spatial] = side
    image = np.zeros(dims, np.float32)
    lines = np.moveaxis(image, law.space_of(model)[axis], 1)
    lines[np.arange(size[axis]), np.arange(size[axis])] = 1
    lit = law.run(law.trunk_of(model, [tensor]), image)[tensor] != 0
    cells = np.moveaxis(lit, 2 + axis, 1).reshape(size[axis], lit.shape[2 + axis], -1)
    return np.asarray(cells.any(axis=2))


def soiled(
    model: onnx.ModelProto, tensor: str, strides: Sequence[int], axis: int, reach: int
) -> NDArray[np.bool_]:
    """Which cells of the window along a spatial axis differ when bright pixels surround it along that axis.

    `strides` are the pixels between two cells per axis, `reach` how many pixels the surroundings must be
    wide. The weights must be positive. Along the other axes the image is larger than the window, so that
    there are cells there which see more than padding.
    """
    axes = law.space_of(model)
    wide = [-(-reach // s) * s for s in strides]
    size = [w + (0 if k == axis else wide[k]) for k, w in enumerate(law.window_of(model))]
    alone = np.abs(law.random_image(model, size)) + 0.5
    pads = [(wide[axis],) * 2 if d == axes[axis] else (0, 0) for d in range(alone.ndim)]
    opened = law.session(law.trunk_of(model, [tensor]))
    among = law.run(opened, np.pad(alone, pads, constant_values=BRIGHT))[tensor]
    want = law.run(opened, alone)[tensor]
    start = [wide[axis] // strides[axis] if k == axis else 0 for k in range(len(axes))]
    seen = law.part(among, range(2, among.ndim), start, want.shape[2:])
    differs = np.moveaxis(~np.isclose(seen, want, rtol=1e-4, atol=0), 2 + axis, 0)
    return np.asarray(differs.reshape(len(differs), -1).any(axis=1))
