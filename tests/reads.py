"""What an op along one axis reads, shown by onnxruntime on one-hot cells."""

from __future__ import annotations

from collections.abc import Callable

import law
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from surgery.field import Stretch


def weights_of(
    node: onnx.NodeProto, cells: int, constants: dict[str, NDArray[np.generic]], opset: int
) -> law.Array:
    """How much each output of an op along y has of each input cell: `[outputs, cells]`."""
    hot = np.eye(cells, dtype=np.float32).reshape(cells, 1, cells, 1)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", 1, hot.shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return np.asarray(law.run(model, hot)["y"][:, 0, :, 0].T)


def assert_reads(way: Stretch, cells: int, weights_at: Callable[[int], law.Array]) -> None:
    """The outputs of the middle read just what is said, and those outside the margin read as in the middle.

    `weights_at(n)` are the weights for an input of n cells.
    """
    weights = weights_at(cells)
    out = int(way.lengths(np.array([cells]))[0])
    assert out == len(weights)
    first = min((r[0] for r in way.reads if r), default=0)
    last = max((r[1] for r in way.reads if r), default=0)
    far = max(-first, last, 0) // way.down + 1  # in a longer row the window begins so many periods in
    behind = far + max(way.more, 0) // way.up + 1  # and it goes on behind all that the last outputs read
    longer = weights_at(cells + (far + behind) * way.down)
    own = np.zeros((out, longer.shape[1]))
    own[:, far * way.down : far * way.down + cells] = weights
    among = longer[far * way.up : far * way.up + out]
    for v, row in enumerate(among):
        seen = np.flatnonzero(np.abs(row) > 1e-6)
        reads = way.at(v)
        said = [] if reads is None else [reads[0] + far * way.down, reads[1] + far * way.down]
        assert [*seen[:1], *seen[-1:]] == said
    a, b = way.margin((0, 0), cells, out)
    same = np.isclose(own, among, atol=1e-4).all(axis=1)
    assert same[a : out - b].all()
    assert not (a and same[a - 1])
    assert not (b and same[out - b])
