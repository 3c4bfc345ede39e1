"""The work of a model: multiply-adds by hand and by a run, and the activations alive at once."""

from __future__ import annotations

import onnx
import pytest
from nets import NAMES, load, parse

from surgery import crops, workload
from surgery.model import dims_of, dtype_of, read
from surgery.session import noise


@pytest.mark.parametrize("name", NAMES)
def test_shapes_by_inference_are_those_of_a_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(name)
    source = read(model)
    shape = [d if isinstance(d, int) and d > 0 else 1 for d in dims_of(source.image)]
    feeds = crops.with_others(source, noise(shape, dtype_of(source.image), seed=1))
    seen = workload.workload(source.proto, feeds)
    weights = {t.name: (tuple(t.dims), t.data_type) for t in source.proto.graph.initializer}
    monkeypatch.setattr(workload, "inferred", lambda *_: dict(weights))
    assert workload.workload(source.proto, feeds).multiply_adds == seen.multiply_adds
    assert seen.peak >= sum(v.nbytes for v in feeds.values())


@pytest.mark.parametrize(
    ("node", "shapes", "count"),
    [
        ("y = Conv <group = 2> (a, b)", ((1, 4, 9, 9), (6, 2, 3, 3), (1, 6, 7, 7)), 6 * 49 * 2 * 9),
        ("y = ConvInteger (a, b)", ((2, 3, 5), (4, 3, 2), (2, 4, 4)), 2 * 4 * 4 * 3 * 2),
        ("y = ConvTranspose (a, b)", ((1, 4, 5, 5), (4, 6, 2, 2), (1, 6, 6, 6)), 4 * 25 * 6 * 4),
        ("y = Gemm (a, b)", ((3, 5), (5, 7), (3, 7)), 3 * 5 * 7),
        ("y = Gemm <transA = 1> (a, b)", ((5, 3), (5, 7), (3, 7)), 3 * 5 * 7),
        ("y = Gemm <transB = 1> (a, b)", ((3, 5), (7, 5), (3, 7)), 3 * 5 * 7),
        ("y = MatMul (a, b)", ((2, 8, 3, 5), (5, 7), (2, 8, 3, 7)), 2 * 8 * 3 * 5 * 7),
        ("y = MatMul (a, b)", ((5,), (5, 7), (7,)), 5 * 7),
    ],
)
def test_multiply_adds_of_a_node(node: str, shapes: tuple[tuple[int, ...], ...], count: int) -> None:
    parsed = onnx.parser.parse_node(node)
    known = {name: (shape, onnx.TensorProto.FLOAT) for name, shape in zip("aby", shapes, strict=True)}
    assert workload.multiply_adds(parsed, known) == count


def test_the_peak_holds_what_is_still_to_be_read() -> None:
    graph = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 100] x) => (float[1, 300] y) <float[100, 200] w> {
          a = Relu (x)
          b = MatMul (a, w)
          c = Relu (b)
          y = Concat <axis = 1> (c, a)
        }""").graph
    known = {"x": 100, "a": 100, "b": 200, "c": 200, "y": 300, "w": 20000}
    shapes = {name: ((size,), onnx.TensorProto.FLOAT) for name, size in known.items()}
    assert workload.peak(graph, shapes) == 4 * (200 + 100 + 300)
