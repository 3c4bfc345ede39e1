"""The block matrix against onnxruntime's own Conv, ConvTranspose and AveragePool."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from law import run
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.sparse import csr_array

import surgery
from surgery.block_matrix import BlockMatrix, average, index_dtype
from surgery.field import Slide

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A windowed op as generated: one slide and one length per spatial axis."""

    slides: tuple[Slide, ...]
    cells: tuple[int, ...]
    group: int = 1
    into: int = 1
    out: int = 1

    @property
    def pads(self) -> list[int]:
        return [s.before for s in self.slides] + [s.after for s in self.slides]

    @property
    def attrs(self) -> dict[str, Any]:
        return {
            "kernel_shape": [s.kernel for s in self.slides],
            "strides": [s.stride for s in self.slides],
            "dilations": [s.dilation for s in self.slides],
            "pads": self.pads,
        }

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.group * self.into, *self.cells)

    def weight(self) -> Array:
        """Weights far from zero, so that every entry shows."""
        shape = (self.group * self.out, self.into, *(s.kernel for s in self.slides))
        return np.random.default_rng(1).uniform(0.5, 1.5, shape).astype(np.float32)

    def matrix(self) -> csr_array:
        a = self.attrs
        return surgery.toeplitz(
            self.weight(), self.input_shape, a["strides"], a["pads"], a["dilations"], self.group
        )


@st.composite
def cases(draw: st.DrawFn, *, pool: bool = False) -> Case:
    slides, cells = [], []
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        dilation = draw(st.integers(1, 2))
        most = kernel - 1 if pool else 2  # onnxruntime takes no pool whose pad is as large as its kernel
        before, after = draw(st.integers(0, most)), draw(st.integers(0, most))
        slide = Slide(kernel, stride, dilation, before, after)
        least = max(1, slide.extent - before - after)
        slides.append(slide)
        cells.append(draw(st.integers(least, least + 4)))
    sizes = [draw(st.integers(1, 3)) for _ in range(3)]
    return Case(tuple(slides), tuple(cells), *sizes)


def answer(op: str, x: Array, *weights: Array, opset: int = 22, **attrs: Any) -> Array:
    """What onnxruntime's op makes of one image without its batch."""
    names = ["x", *(f"w{i}" for i in range(len(weights)))]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape)
        for n, v in zip(names, [x[None], *weights], strict=True)
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attrs)], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return run(model, x[None], **dict(zip(names[1:], weights, strict=True)))["y"][0]


def image(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


# ------------------------------------------------ the laws


@given(case=cases())
def test_product_is_the_convolution(case: Case) -> None:
    x = image(case.input_shape)
    want = answer("Conv", x, case.weight(), group=case.group, **case.attrs)
    matrix = case.matrix()
    assert matrix.shape == (want.size, x.size)
    np.testing.assert_allclose(matrix @ x.ravel(), want.ravel(), rtol=1e-4, atol=1e-5)


@given(case=cases())
def test_transposed_product_is_the_transposed_convolution(case: Case) -> None:
    matrix = case.matrix()
    out = [int(s.lengths(np.array([n]))[0]) for s, n in zip(case.slides, case.cells, strict=True)]
    rest = [
        n + s.before + s.after - s.extent - (o - 1) * s.stride
        for s, n, o in zip(case.slides, case.cells, out, strict=True)
    ]
    y = image((case.group * case.out, *out))
    want = answer("ConvTranspose", y, case.weight(), group=case.group, output_padding=rest, **case.attrs)
    assert want.shape == case.input_shape
    np.testing.assert_allclose(matrix.T @ y.ravel(), want.ravel(), rtol=1e-4, atol=1e-5)


@given(case=cases(pool=True), pads_count=st.booleans(), ceil=st.booleans())
def test_average_pool_is_a_matrix_too(case: Case, pads_count: bool, ceil: bool) -> None:
    slides = tuple(Slide(s.kernel, s.stride, s.dilation, s.before, s.after, ceil) for s in case.slides)
    x = image(case.input_shape)
    matrix = average(len(x), case.cells, slides, pads_count=pads_count, dtype=np.float32)
    assume(matrix.share is not None and matrix.share.all())  # a window of pads alone has no mean
    want = answer("AveragePool", x, ceil_mode=int(ceil), count_include_pad=int(pads_count), **case.attrs)
    assert (len(x), *matrix.out) == want.shape
    np.testing.assert_allclose(matrix.dense() @ x.ravel(), want.ravel(), rtol=1e-4, atol=1e-5)


@given(case=cases())
def test_entries_are_sorted_and_none_stands_for_a_pad(case: Case) -> None:
    matrix = case.matrix()
    matrix.check_format(full_check=True)
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    assert (np.diff(rows * matrix.shape[1] + matrix.indices) > 0).all()
    assert (matrix.data > 0).all()


@given(case=cases(), pool=st.booleans())
def test_sparse_dense_and_counted_are_one_matrix(case: Case, pool: bool) -> None:
    weight = np.round(case.weight() * 4) / 4 - 1  # few values, zero among them
    matrix = BlockMatrix(weight, case.cells, case.slides, case.group)
    if pool:
        matrix = average(len(weight), case.cells, case.slides, pads_count=False, dtype=np.float64)
    dense = matrix.dense()
    np.testing.assert_array_equal(csr_array(matrix.compressed(), shape=matrix.shape).toarray(), dense)
    assert dense.nbytes == matrix.nbytes
    assert np.count_nonzero(dense) == matrix.nonzeros <= matrix.stored == len(matrix.compressed()[0])
    assert np.unique(dense[dense != 0]).size == matrix.distinct


def test_rows_repeat_the_kernel_one_cell_further() -> None:
    matrix = surgery.toeplitz(np.array([[[1, 2]]]), (1, 4), pads=[1, 0])
    assert matrix.toarray().tolist() == [[2, 0, 0, 0], [1, 2, 0, 0], [0, 1, 2, 0], [0, 0, 1, 2]]


def test_it_holds_little_more_than_the_result() -> None:
    weight = image((16, 16, 3, 3))
    tracemalloc.start()
    matrix = surgery.toeplitz(weight, (16, 56, 56), pads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    assert matrix.nnz == 16 * 16 * (3 * 56 - 2) ** 2
    assert peak < 1.5 * size


# ------------------------------------------------ dtypes


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [("float32", "float32"), ("float64", "float64"), ("int8", "int8"), (">f4", "float32")],
)
def test_the_weight_keeps_its_dtype(given_dtype: str, kept: str) -> None:
    assert surgery.toeplitz(np.ones((1, 1, 2), given_dtype), (1, 3)).dtype == kept


def test_half_floats_become_float32() -> None:
    assert surgery.toeplitz(np.ones((1, 1, 2), np.float16), (1, 3)).dtype == np.float32


def test_indices_are_wide_only_beyond_31_bits() -> None:
    assert index_dtype(2**31 - 1, 10) is np.int32
    assert index_dtype(2**31, 10) is np.int64
    assert index_dtype(10, 2**31) is np.int64


# ------------------------------------------------ bad input


W = np.ones((4, 2, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("weight", "shape", "more", "words"),
    [
        (W, (3, 8, 8), {}, r"\[4, 2, 3, 3\] in 1 group\(s\) does not fit an input of shape \[3, 8, 8\]"),
        (W, (2, 8), {}, r"as many spatial axes as the kernel"),
        (W, (2, 8, "W"), {}, r"does not fit an input of shape \[2, 8, 'W'\]"),
        (W, (6, 8, 8), {"group": 3}, r"M a multiple of the groups"),
        (W[:0], (2, 8, 8), {}, r"none of them is empty"),
        (W[0, 0], (3,), {}, r"does not fit"),
        (W, (2, 2, 8), {}, r"a kernel of 3x3 .* spans 3x3 cells, more than the input of 2x8"),
        (W, (2, 8, 8), {"dilations": 4}, r"spans 9x9 cells"),
        (W, (2, 8, 8), {"pads": (1, 1)}, r"pads is \(1, 1\); give one integer .* or 4 of them as \[begin"),
        (W, (2, 8, 8), {"pads": -1}, r"pads is -1; give one integer of 0 or more"),
        (W, (2, 8, 8), {"strides": 0}, r"strides is 0; give one integer of 1 or more, or 2 of them\."),
        (W, (2, 8, 8), {"strides": 1.5}, r"strides is 1.5"),
        (W, (2, 8, 8), {"strides": []}, r"strides is \[\]"),
        (W.astype(str), (2, 8, 8), {}, r"needs floats or integers"),
    ],
)
def test_parts_that_do_not_fit_are_named(weight: Array, shape: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(surgery.BadInput, match=words):
        surgery.toeplitz(weight, shape, **more)


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "scipy" or n.startswith("scipy.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(surgery.BadInput, match=r"pip install 'onnx-net-surgery\[sparse\]'"):
        surgery.toeplitz(W, (2, 8, 8))


def test_size_of_the_dense_matrix_needs_no_matrix() -> None:
    matrix = BlockMatrix(W, (4096, 4096), (Slide(3), Slide(3)))
    assert matrix.nbytes == 4 * prod(matrix.shape) == 4 * 4 * 4094**2 * 2 * 4096**2
    assert matrix.nonzeros == W.size * 4094**2
