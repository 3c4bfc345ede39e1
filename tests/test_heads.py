"""Heads that fold positions into features and multiply them by a matrix, in every spelling of both."""

from __future__ import annotations

import onnx
import pytest
from heads import assert_lifted, at_opsets, net

FC = "scores = Gemm <transB = 1> (f, w, b)"
FC_WEIGHTS = "float[5,72] w, float[5] b"

# ------------------------------------------------ the flatten point

FLATTENS = {
    "Flatten": "f = Flatten (map)",
    "Flatten of everything": "f = Flatten <axis = 0> (map)",
    "Flatten of two Flattens": "f0 = Flatten (map) f = Flatten (f0)",
    "Reshape to [1, K]": "s = [1, 72] f = Reshape (map, s)",
    "Reshape to [-1, K]": "s = [-1, 72] f = Reshape (map, s)",
    "Reshape to [1, -1]": "s = [1, -1] f = Reshape (map, s)",
    "Reshape to [0, -1]": "s = [0, -1] f = Reshape (map, s)",
    "two Reshapes": ("s = [0, 3, -1] f0 = Reshape (map, s) t = [0, -1] f = Reshape (f0, t)"),
    "a Reshape that moves no cell first": ("s = [1, 1, 3, 4, 6] f0 = Reshape (map, s) f = Flatten (f0)"),
    "a Reshape that cuts rows in two": ("s = [1, 3, 8, 3] f0 = Reshape (map, s) f = Flatten (f0)"),
    "Shape, Gather, Concat": (
        "s = Shape (map) z = 0 n = Gather (s, z) n1 = Unsqueeze[0] (n) "
        "r = [-1] t = Concat <axis = 0> (n1, r) f = Reshape (map, t)"
    ),
    "Shape, Cast, Slice, Cast, Concat": (
        "s = Shape (map) i = Cast <to = 1> (s) j = Cast <to = 7> (i) h = [1] "
        "z = [0] n = Gather (j, z) p = Cast <to = 6> (n) q = Cast <to = 7> (p) "
        "r = [-1] t = Concat <axis = 0> (q, r) f = Reshape (map, t)"
    ),
    "a product of the dims": (
        "s = Shape (map) i = [1, 2, 3] d = Gather (s, i) z = [0] "
        "n = Gather (s, z) k = ReduceProd[0] <keepdims = 1> (d) t = Concat <axis = 0> (n, k) f = "
        "Reshape (map, t)"
    ),
    "channels last before it": "t = Transpose <perm = [0, 2, 3, 1]> (map) f = Flatten (t)",
    "columns first before it": "t = Transpose <perm = [0, 3, 2, 1]> (map) f = Flatten (t)",
    "rows and columns swapped": "t = Transpose <perm = [0, 1, 3, 2]> (map) f = Flatten (t)",
    "two Transposes": (
        "t0 = Transpose <perm = [0, 2, 3, 1]> (map) t = Transpose <perm = [0, 2, 1, 3]> (t0) f = Flatten (t)"
    ),
    "Reshape, Transpose, Reshape": (
        "s = [0, 3, 24] f0 = Reshape (map, s) "
        "t = Transpose <perm = [0, 2, 1]> (f0) u = [0, -1] f = Reshape (t, u)"
    ),
    "Unsqueeze": "u = Unsqueeze[1] (map) f = Flatten (u)",
    "Identity and Dropout": "i = Identity (map) d = Dropout (i) f = Flatten (d)",
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(FLATTENS))
def test_flatten(name: str, opset: int) -> None:
    assert_lifted(net(f"{FLATTENS[name]} {FC}", FC_WEIGHTS, opset=opset))


SLICED = "v = Slice (s, a, o, x) r = [-1] t = Concat <axis = 0> (v, r)"


@pytest.mark.parametrize("opset", [11, 13, 21])
def test_shape_slice_cast_concat(opset: int) -> None:
    consts = " ".join(
        f"{n} = Constant <value = int64[1] {{{v}}}> ()" for n, v in [("a", 0), ("o", 1), ("x", 0)]
    )
    assert_lifted(
        net(f"s = Shape (map) {consts} {SLICED} f = Reshape (map, t) {FC}", FC_WEIGHTS, opset=opset)
    )


@pytest.mark.parametrize("dims", ["1, 72", "1, -1"])
def test_reshape_that_allows_zero(dims: str) -> None:
    lines = f"s = Constant <value = int64[2] {{{dims}}}> () f = Reshape <allowzero = 1> (map, s) {FC}"
    assert_lifted(net(lines, FC_WEIGHTS, opset=14))


POOLED = {
    "GlobalAveragePool, Flatten": "p = GlobalAveragePool (map) f = Flatten (p)",
    "GlobalMaxPool, Squeeze": "p = GlobalMaxPool (map) f = Squeeze[2, 3] (p)",
    "GlobalAveragePool, Squeeze one by one": "p = GlobalAveragePool (map) q = Squeeze[3] (p) f = "
    "Squeeze[2] (q)",
    "ReduceMean": "f = ReduceMean[2, 3] <keepdims = 0> (map)",
    "ReduceMean from the end": "f = ReduceMean[-1, -2] <keepdims = 0> (map)",
    "ReduceMean with dims kept": "p = ReduceMean[2, 3] <keepdims = 1> (map) f = Flatten (p)",
    "ReduceMean one by one": "p = ReduceMean[3] <keepdims = 0> (map) f = ReduceMean[2] <keepdims = 0> (p)",
    "ReduceMean channels last": (
        "t = Transpose <perm = [0, 2, 3, 1]> (map) f = ReduceMean[1, 2] <keepdims = 0> (t)"
    ),
    "ReduceMax": "f = ReduceMax[2, 3] <keepdims = 0> (map)",
    "ReduceSum": "f = ReduceSum[2, 3] <keepdims = 0> (map)",
    "ReduceL2": "f = ReduceL2[2, 3] <keepdims = 0> (map)",
    "AveragePool as large as the map": "p = AveragePool <kernel_shape = [4, 6]> (map) f = Flatten (p)",
    "MaxPool as large as the map": "p = MaxPool <kernel_shape = [4, 6]> (map) f = Flatten (p)",
    "mean of the flattened cells": (
        "s = [0, 3, -1] g = Reshape (map, s) f = ReduceMean[2] <keepdims = 0> (g)"
    ),
    "sum over sums": "e = Exp (map) p = ReduceSum[3] <keepdims = 0> (e) f = ReduceSum[2] <keepdims = 0> (p)",
    "generalised mean": (
        "e = 3.0 i = 0.3333 q = Pow (map, e) p = GlobalAveragePool (q) r = Pow (p, i) f = Flatten (r)"
    ),
    "a Conv behind the pool": "p = GlobalAveragePool (map) q = Conv (p, k) f = Flatten (q)",
    "two pools joined": (
        "p = GlobalAveragePool (map) q = GlobalMaxPool (map) j = Concat <axis = 1> (p, q) "
        "r = Conv (j, k2) f = Flatten (r)"
    ),
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(POOLED))
def test_global_pool(name: str, opset: int) -> None:
    weights = "float[5,3] w, float[5] b, float[3,3,1,1] k, float[3,6,1,1] k2"
    assert_lifted(net(f"{POOLED[name]} {FC}", weights, opset=opset))


@pytest.mark.parametrize("opset", [13, 21])
def test_nothing_but_a_conv_behind_the_pool(opset: int) -> None:
    lines = "p = GlobalAveragePool (map) scores = Conv (p, k, b)"
    weights = "float[5,3,1,1] k, float[5] b"
    assert_lifted(net(lines, weights, opset=opset, out="float[1,5,1,1] scores"))


# ------------------------------------------------ the matrix

PRODUCTS = {
    "Gemm": ("scores = Gemm (f, w, b)", "float[72,5] w, float[5] b"),
    "Gemm without bias": ("scores = Gemm (f, w)", "float[72,5] w"),
    "Gemm transB": ("scores = Gemm <transB = 1> (f, w, b)", "float[5,72] w, float[5] b"),
    "Gemm alpha and beta": (
        "scores = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (f, w, b)",
        "float[5,72] w, float[5] b",
    ),
    "Gemm alpha": ("scores = Gemm <alpha = -1.5> (f, w, b)", "float[72,5] w, float[5] b"),
    "Gemm beta 0": ("scores = Gemm <beta = 0.0> (f, w, b)", "float[72,5] w, float[5] b"),
    "Gemm bias [1, K]": ("scores = Gemm (f, w, b)", "float[72,5] w, float[1,5] b"),
    "Gemm bias [1]": ("scores = Gemm (f, w, b)", "float[72,5] w, float[1] b"),
    "Gemm bias [1, 1]": ("scores = Gemm (f, w, b)", "float[72,5] w, float[1,1] b"),
    "Gemm bias scalar": ("scores = Gemm <beta = 3.0> (f, w, b)", "float[72,5] w, float b"),
    "Gemm bias from the image": (
        "r = Gemm (f, v) scores = Gemm <beta = 0.5> (f, w, r)",
        "float[72,5] w, float[72,5] v",
    ),
    "MatMul": ("scores = MatMul (f, w)", "float[72,5] w"),
    "MatMul, Add": ("m = MatMul (f, w) scores = Add (m, b)", "float[72,5] w, float[5] b"),
    "Add of a MatMul": ("m = MatMul (f, w) scores = Add (b, m)", "float[72,5] w, float[5] b"),
    "MatMul, Add [1, K]": ("m = MatMul (f, w) scores = Add (m, b)", "float[72,5] w, float[1,5] b"),
    "MatMul, Add scalar": ("m = MatMul (f, w) scores = Add (m, b)", "float[72,5] w, float b"),
    "MatMul, Sub": ("m = MatMul (f, w) scores = Sub (m, b)", "float[72,5] w, float[5] b"),
    "MatMul read twice": (
        "m = MatMul (f, w) n = Add (m, b) scores = Mul (n, m)",
        "float[72,5] w, float[5] b",
    ),
    "MatMul by [1, K, M]": (
        "u = Unsqueeze[1] (f) m = MatMul (u, w) scores = Squeeze[1] (m)",
        "float[1,72,5] w",
    ),
    "MatMul from the left": (
        "u = Unsqueeze[2] (f) m = MatMul (w, u) scores = Squeeze[2] (m)",
        "float[5,72] w",
    ),
    "MatMul by a vector, then features": (
        "m = MatMul (f, v) u = Unsqueeze[1] (m) scores = Mul (u, b)",
        "float[72] v, float[5] b",
    ),
    "two products": (
        "h = Gemm (f, w, b) r = Relu (h) scores = Gemm (r, v)",
        "float[72,7] w, float[7] b, float[7,5] v",
    ),
    "one weight twice": (
        "h = Gemm (f, w) r = Relu (h) g = Gemm <transB = 1> (r, w) scores = Gemm (g, w)",
        "float[72,5] w",
    ),
    "residual": (
        "h = Gemm (f, w) r = Relu (h) g = Gemm (r, v, b) s = Add (h, g) scores = Relu (s)",
        "float[72,5] w, float[5,5] v, float[5] b",
    ),
    "residual to the flattened map": (
        "h = Gemm (f, w) s = Add (h, f) scores = Gemm (s, v)",
        "float[72,72] w, float[72,5] v",
    ),
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(PRODUCTS, 11))
def test_product(name: str, opset: int) -> None:
    lines, weights = PRODUCTS[name]
    assert_lifted(net(f"f = Flatten (map) {lines}", weights, opset=opset))


@pytest.mark.parametrize("equation", ["bi,io->bo", "bi,oi->bo", "ab,cb", "ni,...oi->n...o"])
def test_einsum(equation: str) -> None:
    weights = "float[72,5] w" if equation == "bi,io->bo" else "float[5,72] w"
    assert_lifted(net(f'f = Flatten (map) scores = Einsum <equation = "{equation}"> (f, w)', weights))


@pytest.mark.parametrize("equation", ["io,bi->bo", "nchw,ochw->no"])
def test_einsum_the_other_way(equation: str) -> None:
    if equation.startswith("n"):
        lines, weights = f'scores = Einsum <equation = "{equation}"> (map, w)', "float[5,3,4,6] w"
    else:
        lines, weights = (
            f'f = Flatten (map) scores = Einsum <equation = "{equation}"> (w, f)',
            "float[72,5] w",
        )
    assert_lifted(net(lines, weights))


MADE = {
    "Constant": "w = Constant <value = float[1,5] {1.0, -2.0, 3.0, 0.5, 2.5}> () m = ReduceMean[1] "
    "<keepdims = 1> (f) scores = MatMul (m, w)",
    "ConstantOfShape": "s = [72, 5] k = ConstantOfShape <value = float[1] {0.25}> (s) w = Add (k, v) "
    "scores = MatMul (f, w)",
    "Cast": "w = Cast <to = 1> (d) scores = MatMul (f, w)",
    "Transpose": "w = Transpose (t) scores = MatMul (f, w)",
    "Transpose of a Reshape": "s = [5, 72] r = Reshape (v, s) w = Transpose <perm = [1, 0]> (r) "
    "scores = MatMul (f, w)",
    "Identity": "w = Identity (v) scores = MatMul (f, w)",
    "Unsqueeze, Squeeze": "u = Unsqueeze[0] (v) w = Squeeze[0] (u) scores = MatMul (f, w)",
    "Slice of a larger": "i = [0, 2, 4, 6, 8] w = Gather <axis = 1> (l, i) scores = MatMul (f, w)",
    "arithmetic": "e = Exp (v) w = Sub (e, v) scores = MatMul (f, w)",
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(MADE))
def test_weight_made_by_nodes(name: str, opset: int) -> None:
    weights = "float[72,5] v, double[72,5] d, float[5,72] t, float[72,9] l"
    assert_lifted(net(f"f = Flatten (map) {MADE[name]}", weights, opset=opset))


def test_initializers_among_the_inputs() -> None:
    model = net(f"f = Flatten (map) {FC}", FC_WEIGHTS)
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    assert_lifted(model)


# ------------------------------------------------ several branches

BRANCHES = {
    "maps of other channels": ("d = Conv (map, k) g = Flatten (d) f = Concat <axis = 1> (e, g)", 120),
    "maps of other sizes": (
        "d = Conv (map, k) g = Flatten (d) h = GlobalMaxPool (map) i = Flatten (h) f = Concat <axis "
        "= 1> (g, e, i)",
        123,
    ),
    "maps of other strides": (
        "d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (map) g = Flatten (d) f = Concat "
        "<axis = -1> (e, g)",
        90,
    ),
    "one map twice": ("r = Neg (map) g = Flatten (r) f = Concat <axis = 1> (e, g)", 144),
    "a branch with a layer": ("h = Gemm (e, v, n) g = Relu (h) f = Concat <axis = 1> (g, e)", 79),
    "a constant": ("f = Concat <axis = 1> (e, k0)", 74),
    "a constant first": ("f = Concat <axis = 1> (k0, e)", 74),
    "features and a constant": ("h = Gemm (e, v, n) f = Concat <axis = 1> (h, k0)", 9),
    "features, cells and a constant": ("h = Gemm (e, v, n) f = Concat <axis = 1> (k0, h, e)", 81),
}


@pytest.mark.parametrize(("name", "opset"), at_opsets(BRANCHES))
def test_branches(name: str, opset: int) -> None:
    lines, width = BRANCHES[name]
    weights = f"float[4,3,2,3] k, float[72,7] v, float[7] n, float[1,2] k0, float[{width},5] w, float[5] b"
    assert_lifted(net(f"e = Flatten (map) {lines} scores = Gemm (f, w, b)", weights, opset=opset))
