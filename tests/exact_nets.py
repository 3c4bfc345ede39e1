"""Small nets that make the exact engine work: padded, of any rank and type, with batches written out."""

from __future__ import annotations

from typing import Any

import nets
import onnx

PADS = "pads = [1, 1, 1, 1]"
HALF = "kernel_shape = [2, 2], strides = [2, 2]"
THREE = "kernel_shape = [3, 3], strides = [2, 2]"
STEM = f"a = Conv <{PADS}> (image, w1) b = Relu (a) "
DEEPER = f"c = MaxPool <{HALF}> (b) d = Conv <{PADS}> (c, w2) map = Relu (d) "
HEAD = "folded = Flatten (map) scores = MatMul (folded, w9)"


def net(
    body: str,
    *,
    outputs: str = "float[1,k] scores",
    image: str = "float[1,2,21,22]",
    more: str = "",
    opset: int = 13,
    **weights: str,
) -> onnx.ModelProto:
    """A net as ONNX text, `more` its other inputs; weights by their shapes, or as `int64[2] = 1, 4`."""
    declared = [_declared(name, said) for name, said in weights.items()]
    listed = f"<{', '.join(declared)}>" if declared else ""
    opened = f'<ir_version: 8, opset_import: ["": {opset}]>'
    return nets.parse(f"{opened} net ({image} image{more}) => ({outputs}) {listed} {{ {body} }}")


def _declared(name: str, said: str) -> str:
    kind, _, values = said.partition(" = ")
    return f"{kind} {name} = {{{values}}}" if values else f"float[{said}] {name}"


def padded(**changes: Any) -> onnx.ModelProto:
    """A net of two padded convolutions with a pool between them."""
    return net(**({"body": STEM + DEEPER + HEAD, "w1": "4,2,3,3", "w2": "3,4,3,3", "w9": "330,5"} | changes))


BYTES = (
    f"q = MaxPool <{THREE}, {PADS}> (image) x = Cast <to = 1> (q) a = Conv <{PADS}> (x, w1) map = Relu (a) "
)
NETS: dict[str, onnx.ModelProto] = {
    "bytes": net(BYTES + HEAD, image="uint8[1,2,21,22]", w1="4,2,3,3", w9="484,5"),
    "integer pool": net(
        BYTES.replace("(image)", "(i)").replace("q =", "i = Cast <to = 3> (image) q =") + HEAD,
        image="uint8[1,2,21,22]",
        w1="4,2,3,3",
        w9="484,5",
    ),
    "lp pool": net(
        f"{STEM} map = LpPool <{THREE}, {PADS}, p = 3> (b) {HEAD}", opset=18, w1="4,2,3,3", w9="484,5"
    ),
    "dilated average": net(
        f"{STEM} map = AveragePool <kernel_shape = [2, 2], dilations = [2, 2], {PADS}, "
        f"count_include_pad = 1> (b) {HEAD}",
        opset=19,
        w1="4,2,3,3",
        w9="1848,5",
    ),
    "pads wider than kernels": net(
        "a = Conv <pads = [3, 2, 1, 4]> (image, w1) "
        f"map = Conv <pads = [2, 2, 2, 2], strides = [2, 2]> (a, w2) {HEAD}",
        w1="4,2,2,2",
        w2="3,4,1,1",
        w9="672,5",
    ),
    "slope per channel": net(
        f"a = Conv <{PADS}> (image, w1) b = PRelu (a, slope) {DEEPER} {HEAD}",
        w1="4,2,3,3",
        w2="3,4,3,3",
        w9="330,5",
        slope="4,1,1",
    ),
    "constant per position": net(
        f"{STEM} s = Mul (b, twice) map = MaxPool <{HALF}> (s) {HEAD}",
        w1="4,2,3,3",
        w9="440,5",
        twice="float[1,1,1,22] = " + ", ".join(["2"] * 22),
    ),
    "mean image": net(
        f"i = Sub (image, mean) a = Conv <{PADS}> (i, w1) map = MaxPool <{HALF}> (a) {HEAD}",
        w1="4,2,3,3",
        w9="440,5",
        mean="1,2,21,22",
    ),
    "cut cells": net(
        f"{STEM} s = Slice (b, from, to, axes) map = Conv <{PADS}> (s, w2) {HEAD}",
        w1="4,2,3,3",
        w2="2,4,3,3",
        w9="760,5",
        **{"from": "int64[2] = 1, 1", "to": "int64[2] = -1, -1", "axes": "int64[2] = 2, 3"},
    ),
    "upsampling": net(
        f"a = Conv <{PADS}, strides = [2, 2]> (image, w1) u = ConvTranspose <strides = [2, 2]> (a, wt) "
        f"map = Conv <{PADS}> (u, w2) {HEAD}",
        w1="4,2,3,3",
        wt="4,4,2,2",
        w2="3,4,3,3",
        w9="1452,5",
    ),
    "gate laid out over all cells": net(
        f"{STEM} g = ReduceMean <axes = [2, 3]> (b) e = Expand (g, to) c = Concat <axis = 1> (b, e) "
        f"map = Conv <{PADS}> (c, w2) {HEAD}",
        w1="4,2,3,3",
        w2="3,8,3,3",
        w9="1386,5",
        to="int64[4] = 1, 4, 21, 22",
    ),
    "volume": net(
        f"a = Conv <pads = [1, 1, 1, 1, 1, 1]> (image, w1) map = AveragePool <kernel_shape = [2, 2, 2], "
        f"strides = [2, 2, 2], ceil_mode = 1> (a) {HEAD}",
        image="float[1,1,7,8,6]",
        w1="3,1,3,3,3",
        w9="144,5",
    ),
    "signal": net(
        "a = Conv <pads = [2, 2]> (image, w1) "
        f"map = MaxPool <kernel_shape = [3], strides = [2], pads = [1, 1]> (a) {HEAD}",
        image="float[1,2,30]",
        w1="4,2,5",
        w9="60,5",
    ),
    "recurrent head": net(
        f"{STEM} p = MaxPool <kernel_shape = [21, 1]> (b) q = Squeeze (p, height) "
        "t = Transpose <perm = [2, 0, 1]> (q) "
        "y, h, c = LSTM <hidden_size = 3> (t, wl, wr, , , state, state) folded = Squeeze (h, first) "
        "scores = Gemm <transB = 1> (folded, w9)",
        w1="4,2,3,3",
        w9="5,3",
        wl="1,12,4",
        wr="1,12,3",
        state="1,1,3",
        height="int64[1] = 2",
        first="int64[1] = 0",
    ),
}  # fmt: skip


def attending(batch: int) -> onnx.ModelProto:
    """Attention as torch.nn.MultiheadAttention exports it: tokens before the batch, heads in the batch."""
    token = ", ".join(["0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8"] * batch)
    return net(
        "p = Conv <strides = [8, 8]> (image, wp) r = Reshape (p, patches) "
        "t = Transpose <perm = [0, 2, 1]> (r) "
        "x = Concat <axis = 1> (token, t) z = Add (x, places) y = Transpose <perm = [1, 0, 2]> (z) "
        "qq = MatMul (y, wq) kk = MatMul (y, wk) vv = MatMul (y, wv) "
        "q1 = Reshape (qq, heads) k1 = Reshape (kk, heads) v1 = Reshape (vv, heads) "
        "q = Transpose <perm = [1, 0, 2]> (q1) k = Transpose <perm = [1, 2, 0]> (k1) "
        "v = Transpose <perm = [1, 0, 2]> (v1) s = MatMul (q, k) w = Softmax <axis = -1> (s) "
        "o = MatMul (w, v) "
        "ot = Transpose <perm = [1, 0, 2]> (o) o2 = Reshape (ot, rows) o3 = Gemm <transB = 1> (o2, wo) "
        "o4 = Reshape (o3, apart) o5 = Transpose <perm = [1, 0, 2]> (o4) m = Add (z, o5) "
        "first = Gather <axis = 1> (m, zero) scores = Gemm <transB = 1> (first, w9)",
        image=f"float[{batch},3,16,16]",
        outputs=f"float[{batch},5] scores",
        wp="8,3,8,8", wq="8,8", wk="8,8", wv="8,8", wo="8,8", w9="5,8", places="1,5,8",
        token=f"float[{batch},1,8] = {token}",
        patches=f"int64[3] = {batch}, 8, 4",
        heads=f"int64[3] = 5, {2 * batch}, 4",
        rows=f"int64[2] = {5 * batch}, 8",
        apart=f"int64[3] = 5, {batch}, 8",
        zero="int64 = 0",
    )  # fmt: skip
