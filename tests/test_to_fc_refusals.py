"""to_fc says what it cannot do: names, sizes, the guard, ops without a matrix; no wrong matrix is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from fc import R_NET, kinds, one_op
from numpy.typing import NDArray

import surgery
from surgery.block_matrix import BlockMatrix


def refuse_all(self: BlockMatrix) -> Any:
    raise AssertionError("a matrix was made")


def test_the_guard_speaks_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(BlockMatrix, "dense", refuse_all)
    model = one_op("Conv<pads=[1,1,1,1]>(x, w)", "16,56,56", "float[16,16,3,3] w")
    with pytest.raises(surgery.Refused) as caught:
        surgery.to_fc(model, tmp_path / "fc.onnx")
    said = str(caught.value)
    assert "Conv 'y' as a matrix has 50176 rows x 50176 columns" in said
    assert "10,070,523,904 bytes (9.4 GiB), with 0.28 % of the entries not zero" in said
    assert "The guard is 1,073,741,824 bytes (1.0 GiB)" in said
    for way_out in ("--nodes", "--size", "--max-bytes", "surgery.toeplitz(weight, input_shape"):
        assert way_out in said
    assert "\n" not in said
    assert (caught.value.node, caught.value.op, caught.value.exit_code) == ("y", "Conv", 3)
    assert not list(tmp_path.iterdir())


def test_the_guard_counts_all_chosen_nodes_together() -> None:
    model = nets.load("branches")
    sizes = {b.node: b.bytes for b in surgery.to_fc(model).nodes}
    total = sum(sizes.values())
    surgery.to_fc(model, max_bytes=total)
    with pytest.raises(surgery.Refused, match=f"The 3 chosen ops need {total:,} bytes"):
        surgery.to_fc(model, max_bytes=total - 1)
    small = min(sizes, key=lambda n: sizes[n])
    assert surgery.to_fc(model, nodes=[small], max_bytes=sizes[small]).nodes[0].node == small


def test_no_guard_lifts_what_one_tensor_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockMatrix, "dense", refuse_all)
    model = one_op("Conv<pads=[1,1,1,1]>(x, w)", "16,56,56", "float[16,16,3,3] w")
    with pytest.raises(
        surgery.Refused, match=r"One tensor of an ONNX model holds at most 2,147,483,647 bytes"
    ):
        surgery.to_fc(model, max_bytes=2**40)


def bias_from_an_input() -> onnx.ModelProto:
    return nets.parse("""<ir_version: 8, opset_import: ["": 13]>
        g (float[1,2,6,6] x, float[2] s) => (float[1,2,4,4] y) <float[2,2,3,3] w> { y = Conv(x, w, s) }""")


def open_size() -> onnx.ModelProto:
    return one_op("Conv(x, w)", "3,h,v", "float[4,3,3,2] w")


def open_channels() -> onnx.ModelProto:
    return one_op("Conv(x, w)", "c,h,v", "float[4,3,3,2] w")


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        ("plain", {"nodes": ["A"]}, surgery.BadInput, r"has no node 'A'; the nearest names are 'a', 'd'"),
        (R_NET, {"nodes": ["/t/l/l.9/Conv"]}, surgery.BadInput, r"nearest names are '/t/l/l\.\d/Conv', '"),
        ("plain", {"nodes": ["c"]}, surgery.BadInput, r"node 'c' is a MaxPool; only Conv and AveragePool"),
        ("plain", {"nodes": []}, surgery.BadInput, r"no node was named; .* has 'a', 'd'"),
        ("plain", {"size": (17,)}, surgery.BadInput, r"has 1 sides?, the image 2"),
        ("plain", {"size": (19, 23)}, surgery.BadInput, r"fixes its window at 17, not 19"),
        (open_size, {"size": (0, 8)}, surgery.BadInput, r"the size is 0x8; give a number of pixels"),
        (open_channels, {"size": (8, 8)}, surgery.BadInput, r"leaves its channels open; fix their number"),
        (open_size, {"size": (2, 2)}, surgery.BadInput, r"onnxruntime cannot run the model"),
        (bias_from_an_input, {}, surgery.Refused, r"Conv 'y' as a matrix: its weights depend on an input"),
    ],
)
def test_requests_that_cannot_be_met(
    make: str | Path | Callable[[], onnx.ModelProto],
    options: Any,
    error: type[Exception],
    words: str,
    tmp_path: Path,
) -> None:
    model = nets.load(make) if isinstance(make, str) else make if isinstance(make, Path) else make()
    with pytest.raises(error, match=words) as caught:
        surgery.to_fc(model, tmp_path / "fc.onnx", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_open_size_must_be_given() -> None:
    words = (
        r"the input 'x' \['N', 3, 'h', 'v'\] leaves its size open, and the matrix of Conv 'y' is made for "
        r"one size\. Give it with --size HxW, in pixels"
    )
    with pytest.raises(surgery.BadInput, match=words):
        surgery.to_fc(open_size())


def test_a_net_without_convolutions_has_nothing_to_convert() -> None:
    with pytest.raises(surgery.Refused, match="it has no Conv and no AveragePool node"):
        surgery.to_fc(one_op("Relu(x)", "3,4,4"))


def test_a_mean_of_nothing_has_no_matrix() -> None:
    model = one_op("AveragePool<kernel_shape=[2], dilations=[2], pads=[1,1]>(x)", "3,1")
    with pytest.raises(surgery.Refused, match="one of its windows reads no cell of the input"):
        surgery.to_fc(model)


def test_before_opset_7_there_is_no_gemm_to_run() -> None:
    with pytest.raises(surgery.BadInput, match=r"is of opset 6, .* bring it to opset 7 or later"):
        surgery.to_fc(one_op("Conv(x, w)", "3,6,5", "float[4,3,3,2] w", opset=6))


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    source, path = tmp_path / "net.onnx", tmp_path / "fc.onnx"
    onnx.save(nets.load("plain"), source)
    path.write_text("mine")
    with pytest.raises(surgery.BadInput, match="exists already"):
        surgery.to_fc(source, path)
    with pytest.raises(surgery.BadInput, match="is the input itself"):
        surgery.to_fc(source, source, force=True)
    assert path.read_text() == "mine"
    surgery.to_fc(source, path, force=True)
    assert kinds(onnx.load(path)).count("Gemm") == 4


WRONG: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "kernel flipped": lambda m: m[:, ::-1].copy(),
    "rows of the neighbour": lambda m: np.roll(m, 1, axis=0),
    "one cell off": lambda m: np.roll(m, 1, axis=1),
    "an entry lost": lambda m: np.where(np.arange(m.size).reshape(m.shape) == np.flatnonzero(m)[7], 0, m),
    "scaled": lambda m: m * np.float32(1.001),
    "not a number": lambda m: m * np.float32(np.nan),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_matrix_is_caught_and_not_written(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = BlockMatrix.dense
    monkeypatch.setattr(BlockMatrix, "dense", lambda self: WRONG[name](right(self)))
    model = one_op("Conv<pads=[1,1,1,1]>(x, w)", "3,6,5", "float[4,3,3,3] w")
    with pytest.raises(surgery.Mismatch, match=r"the proof failed.* Nothing was written") as caught:
        surgery.to_fc(model, tmp_path / "fc.onnx")
    assert caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())


def test_a_saturated_answer_does_not_hide_a_wrong_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replaced ops' own outputs are compared, and not only what a Clip leaves of them."""
    text = """<ir_version: 8, opset_import: ["": 13]> g (float[1,2,6,6] x) => (float[1,2,4,4] y)
        <float[2,2,3,3] w, float low = {-1e-9}, float high = {1e-9}>
        { c = Conv(x, w) y = Clip(c, low, high) }"""
    right = BlockMatrix.dense
    monkeypatch.setattr(BlockMatrix, "dense", lambda self: right(self) * np.float32(1.5))
    with pytest.raises(surgery.Mismatch):
        surgery.to_fc(nets.parse(text))
