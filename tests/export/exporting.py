"""torch's two exporters in their ways, and what torch itself says of crops and of windows."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import law
import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[export]'")

from torch import nn  # noqa: E402

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """How to export: by TorchScript or by the newer exporter, for an opset, a batch of one or of any."""

    dynamo: bool
    opset: int
    dynamic: bool
    fold: bool = True

    def __str__(self) -> str:
        exporter = "dynamo" if self.dynamo else "script"
        return f"{exporter}{self.opset}-{'dynamic' if self.dynamic else 'fixed'}{'' if self.fold else '-raw'}"


SCRIPT = [Way(False, opset, dynamic) for opset in (9, 11, 13, 17) for dynamic in (False, True)]
DYNAMO = [Way(True, 18, False), Way(True, 18, True), Way(True, 23, True)]
RAW = [Way(False, 13, True, fold=False), Way(True, 18, True, fold=False)]  # no constant folded
WAYS = [*SCRIPT, *DYNAMO, *RAW]


def export(net: nn.Module, image: Sequence[int], way: Way) -> onnx.ModelProto:
    """A module as ONNX, with an input `image` `[N, *image]` and an output `scores`."""
    names = {"input_names": ["image"], "output_names": ["scores"]}
    x = torch.zeros(1 + way.dynamic, *image)  # the newer exporter takes a batch of one for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both exporters warn, of each other and of torch's own use of itself
        if not way.dynamo:
            axes = {"dynamic_axes": {"image": {0: "n"}, "scores": {0: "n"}}} if way.dynamic else {}
            made = io.BytesIO()
            folded = way.fold
            torch.onnx.export(
                net,
                (x,),
                made,
                dynamo=False,
                opset_version=way.opset,
                do_constant_folding=folded,
                **axes,
                **names,
            )
            return onnx.load_from_string(made.getvalue())
        shapes = {"dynamic_shapes": ({0: torch.export.Dim("n", min=1)},)} if way.dynamic else {}
        program = torch.onnx.export(
            net,
            (x,),
            dynamo=True,
            opset_version=way.opset,
            optimize=way.fold,
            verbose=False,
            **shapes,
            **names,
        )
        proto: onnx.ModelProto = program.model_proto
        return proto


def at_crops(
    net: nn.Module, image: law.Array, window: Sequence[int], stride: Sequence[int]
) -> tuple[Grid, law.Array]:
    """The grid, and the net's scores for every crop of an image, `[positions, ...]`."""
    grid, crops = _cut(torch.from_numpy(image), window, stride)
    with torch.no_grad():
        return grid, net(crops).numpy()


def at_windows(
    net: Any, image: law.Array, window: Sequence[int], step: Sequence[int]
) -> tuple[Grid, law.Array]:
    """The grid, and the head's scores for every window of the map that the trunk makes of a whole image."""
    with torch.no_grad():
        cells = net.trunk(torch.zeros(1, image.shape[1], *window)).shape[2:]
        grid, windows = _cut(net.trunk(torch.from_numpy(image)), cells, step)
        return grid, net.head(windows).numpy()


def _cut(x: Any, size: Sequence[int], step: Sequence[int]) -> tuple[Grid, Any]:
    """The grid of boxes of a size, and the boxes one behind the other in the batch."""
    grid = law.grid_of(x.shape[2:], size, step)
    starts = [[i * s for i, s in zip(place, step, strict=True)] for place in np.ndindex(grid)]
    return grid, torch.cat([law.part(x, range(2, x.ndim), start, size) for start in starts])


def assert_map(score_map: law.Array, grid: Grid, want: law.Array, where: str) -> None:
    """A score map `[1, ..., *cells]` holds the scores wanted, `[positions, ...]`, at its places."""
    space = len(grid)
    part = law.part(score_map, range(-space, 0), [0] * space, grid)[0]
    got = np.moveaxis(part, range(-space, 0), range(space))
    law.assert_close(got.reshape(len(want), -1), want.reshape(len(want), -1), where)
