"""Trunks as exporters write them, and images in every layout: a few lines each."""

from __future__ import annotations

import onnx
from trunks import FLAT, GAP, named, net

DOWN = "c = Conv <strides = [2, 2]> (image, w1) "  # [1, 4, 8, 11]
TEN = "s = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (c)"
NINE = "p = Pad[0, 0, 0, 1] (c) s = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (p)"

DECLARED = (
    "float[4,2,3,3] w1, float[4,2,3] w1d, float[1,2,3,3] w12, float[4,4,1,1] w44, float[4,4,3,3] w3, "
    "float[4,8,1,1] w48, "
    "float[2,2,1,1] w22, float[4,3,1,1] w43, float[4,2,1,1] w42, float[2,1,3,2] wg, float[1,1,2,3,1] deep, "
    "float[1,2,2,1,1] per5, float[4,1,1] per3, float[4] per1, float[4,4] square, float[4,3,3,3] wrgb, "
    "float[4,1,3,3] wgrey, float[3,1,1] mean3, float[3,1,1] std3, float[3] mean1, float[3] std1, float half, "
    "float[4,3] we, float[5,7] w7, float[5,4] w5, float[5] b5, float[1,2,17,23] picture, float[4,4,3,3] wp, "
    "float[1,88,4] embedding, float[1,1,4] token, float[1,16,4] lw, float[1,16,4] lr, float[1,4] boxes, "
    "int64[1] which = {0}, int64[1] k0 = {0}, int64[1] k2 = {2}, int64[1] k3 = {3}, int64[2] two = {2, 2}, "
    "int64[1] rest = {-1}, int64 first = {0}, int64 second = {1}, int64[3] row = {1, 4, 88}, "
    "int64[2] rows = {88, 4}, int64[4] last = {1, 8, 11, 4}, "
    "int64[4] grid = {1, 4, 8, 11}, int64[5] groups = {1, 2, 2, 8, 11}, int64[3] halves = {2, 2, 88}, "
    "int64[5] halves5 = {2, -1, 2, 8, 11}, int64[5] depth = {1, 1, 4, 8, 11}, "
    "int64[4] grid3 = {1, 3, 8, 11}, "
    "int64[4] grey = {-1, 1, 17, 23}, int64[4] back = {1, 4, 1, 1}, int64[4] plane = {1, 1, 8, 11}"
)
SHUFFLED = "u = Transpose <perm = [0, 2, 1, 3, 4]> (r) s = Reshape (u, {}) map = Conv (s, w44)"

TRUNKS: dict[str, tuple[str, int, int, str]] = {  # lines, channels, cells, verdict
    "SAME pads at the end": (
        'c = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (image, w1) map = Relu (c)',
        4,
        9 * 12,
        "padded",
    ),
    "SAME pads at the start": (
        f"""{DOWN} map = MaxPool <auto_pad = "SAME_LOWER", kernel_shape = [2, 2], strides = [2, 2]> (c)""",
        4,
        4 * 6,
        "padded",
    ),
    "pads of four sizes": (
        "c = Conv <pads = [0, 1, 2, 3], strides = [2, 2]> (image, w1) map = Relu (c)",
        4,
        9 * 13,
        "padded",
    ),
    "a Pad before a Conv": (
        "p = Pad[1, 1, 1, 1] (image) map = Conv <strides = [2, 2]> (p, w1)",
        4,
        9 * 12,
        "padded",
    ),
    "a cut and a Conv": (f"{DOWN} s = Cut[1, 2, -1, 9] (c) map = Conv (s, w44)", 4, 6 * 7, "exact"),
    "a last pool cut short": (f"{DOWN} {TEN} map = Relu (s)", 4, 4 * 6, "padded"),
    "groups and dilation": (
        "c = Conv <group = 2, dilations = [2, 3]> (image, wg) map = Conv (c, w42)",
        4,
        13 * 20,
        "exact",
    ),
    "a map made larger": (f"{DOWN} u = Up[2, 2] (c) map = Conv (u, w3)", 4, 14 * 20, "exact"),
    "a dense block": (
        f"""{DOWN} a = Conv <pads = [1, 1, 1, 1]> (c, w3) k = Concat <axis = 1> (c, a) b = Conv (k, w48)
            l = Concat <axis = 1> (k, b) map = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (l)""",
        12,
        4 * 5,
        "padded",
    ),
    "channels shuffled": (f"{DOWN} r = Reshape (c, groups) {SHUFFLED.format('grid')}", 4, 88, "exact"),
    "channels shuffled by a shape": (
        f"""{DOWN} sh = Shape (c) n = Gather (sh, k0) h = Gather (sh, k2) w = Gather (sh, k3)
            a = Concat <axis = 0> (n, two, h, w) b = Concat <axis = 0> (n, rest, h, w) r = Reshape (c, a)
            {SHUFFLED.format("b")}""",
        4,
        88,
        "exact",
    ),
    "channels shuffled in the batch": (
        f"""{DOWN} r = Reshape (c, halves) u = Transpose <perm = [1, 0, 2]> (r) v = Reshape (u, halves5)
            x = Gather <axis = 0> (v, first) y = Gather <axis = 0> (v, second) z = Conv (y, w22)
            s = Concat <axis = 1> (x, z) map = Conv (s, w44)""",
        4,
        88,
        "exact",
    ),
    "groups in a dim of their own": (
        f"""{DOWN} r = Reshape (c, groups) g = Add (r, per5) q = Relu (g) s = Reshape (q, grid)
            map = Conv (s, w44)""",
        4,
        88,
        "exact",
    ),
    "groups as depth": (
        f"""{DOWN} r = Reshape (c, depth) g = Conv <pads = [0, 1, 0, 0, 1, 0]> (r, deep)
            s = Reshape (g, grid3) map = Conv (s, w43)""",
        4,
        88,
        "padded",
    ),
    "dims of 1 put in and taken out": (
        f"{DOWN} a = Unsqueeze[1] (c) b = Relu (a) d = Squeeze[1] (b) map = Conv (d, w44)",
        4,
        88,
        "exact",
    ),
    "rows of positions, a product per channel": (
        f"""{DOWN} r = Reshape (c, row) t = Transpose <perm = [0, 2, 1]> (r) m = MatMul (t, square)
            q = Relu (m) u = Transpose <perm = [0, 2, 1]> (q) s = Reshape (u, grid) map = Conv (s, w44)""",
        4,
        88,
        "exact",
    ),
    "rows of positions and images, a product per channel": (
        f"""{DOWN} t = Transpose <perm = [0, 2, 3, 1]> (c) r = Reshape (t, rows) m = MatMul (r, square)
            s = Reshape (m, last) a = Add (s, per1) q = Relu (a) u = Transpose <perm = [0, 3, 1, 2]> (q)
            map = Conv (u, w44)""",
        4,
        88,
        "exact",
    ),
    "rows of positions and images, a Gemm per channel": (
        f"""{DOWN} t = Transpose <perm = [0, 2, 3, 1]> (c) r = Reshape (t, rows)
            m = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (r, square, per1) q = Relu (m)
            g = Gemm (q, square, per1) s = Reshape (g, last) map = Transpose <perm = [0, 3, 1, 2]> (s)""",
        4,
        88,
        "exact",
    ),
    "a norm over channels, spelled out": (
        f"""{DOWN} m = ReduceMean[1] <keepdims = 1> (c) d = Sub (c, m) q = Mul (d, d)
            v = ReduceMean[1] <keepdims = 1> (q) e = Sqrt (v) n = Div (d, e) x = Mul (n, per3)
            map = Conv (x, w44)""",
        4,
        88,
        "exact",
    ),
    "one channel repeated": (
        """c = Conv <strides = [2, 2]> (image, w12) e = Expand (c, grid) map = Conv (e, w44)""",
        4,
        88,
        "exact",
    ),
    "a constant of the window's size": (
        f"""{DOWN} sh = Shape (c) k = ConstantOfShape <value = float[1] {{0.7}}> (sh) x = Add (c, k)
            z = Concat <axis = 1> (x, k) map = Conv (z, w48)""",
        4,
        88,
        "exact",
    ),
    "an adaptive pool, as a strided one": (
        """c = Conv (image, w1) a = AveragePool <kernel_shape = [3, 3], strides = [3, 3]> (c)
           map = Relu (a)""",
        4,
        5 * 7,
        "exact",
    ),
    "local responses": (f"{DOWN} l = LRN <size = 3> (c) map = Conv (l, w44)", 4, 88, "exact"),
}


def trunk(name: str, opset: int, *, flat: bool = False) -> onnx.ModelProto:
    """A trunk of the table at an opset, under a global pool or a flat head."""
    lines, channels, cells, _ = TRUNKS[name]
    lines = lines if opset >= 10 else lines.replace(TEN, NINE)
    features = channels * cells if flat else channels
    return net(lines, named(lines, DECLARED), features, opset=opset, head=FLAT if flat else GAP)


NORMED = "f = Cast <to = 1> (image) s = Sub (f, mean{0}) d = Div (s, std{0})"
LAYOUTS: dict[str, tuple[str, str, tuple[int, ...]]] = {  # lines, image, its dims of space
    "bytes, channels first": (
        f"{NORMED.format(3)} c = Conv <strides = [2, 2]> (d, wrgb) map = Relu (c)",
        "uint8[1,3,17,23] image",
        (2, 3),
    ),
    "bytes, channels last": (
        f"""{NORMED.format(1)} t = Transpose <perm = [0, 3, 1, 2]> (d) c = Conv <strides = [2, 2]> (t, wrgb)
            map = Relu (c)""",
        "uint8[1,17,23,3] image",
        (1, 2),
    ),
    "channels last throughout": (
        """t = Transpose <perm = [0, 3, 1, 2]> (image) c = Conv <strides = [2, 2]> (t, wrgb)
           u = Transpose <perm = [0, 2, 3, 1]> (c) v = Add (u, per1) x = Relu (v) m = MatMul (x, square)
           y = Transpose <perm = [0, 3, 1, 2]> (m) z = MaxPool <kernel_shape = [2, 2]> (y)
           map = Conv (z, w44)""",
        "float[1,17,23,3] image",
        (1, 2),
    ),
    "two channels last": (
        "t = Transpose <perm = [0, 3, 1, 2]> (image) c = Conv <strides = [2, 2]> (t, w1) map = Relu (c)",
        "float[1,17,23,2] image",
        (1, 2),
    ),
    "one channel last, moved by a Reshape": (
        "t = Reshape (image, grey) c = Conv <strides = [2, 2]> (t, wgrey) map = Relu (c)",
        "float[1,17,23,1] image",
        (1, 2),
    ),
    "a signal of one row": (
        "t = Squeeze[2] (image) c = Conv <strides = [2]> (t, w1d) map = Relu (c)",
        "float[1,2,1,23] image",
        (3,),
    ),
    "means of columns, and a Conv over rows": (
        "t = ReduceMean[2] <keepdims = 0> (image) c = Conv <strides = [2]> (t, w1d) map = Relu (c)",
        "float[1,2,17,23] image",
        (2, 3),
    ),
    "no channel, put in by a Reshape": (
        "t = Reshape (image, grey) c = Conv <strides = [2, 2]> (t, wgrey) map = Relu (c)",
        "float[1,17,23] image",
        (1, 2),
    ),
    "no channel, put in behind a scaling": (
        "s = Mul (image, half) t = Unsqueeze[1] (s) c = Conv <strides = [2, 2]> (t, wgrey) map = Relu (c)",
        "float[1,17,23] image",
        (1, 2),
    ),
}

FILM = "e = Gemm <transB = 1> (vector, we, per1)"
BESIDE: dict[str, tuple[str, str]] = {  # lines, head
    "beside the features": (
        f"""{DOWN} g = GlobalAveragePool (c) f = Flatten (g) x = Concat <axis = 1> (f, vector)
            scores = Gemm <transB = 1> (x, w7, b5)""",
        "",
    ),
    "added to the features": (
        f"""{DOWN} {FILM} g = GlobalAveragePool (c) f = Flatten (g) x = Add (e, f) r = Relu (x)
            scores = Gemm <transB = 1> (r, w5, b5)""",
        "",
    ),
    "multiplied with the map": (
        f"{DOWN} {FILM} s = Reshape (e, back) x = Mul (c, s) map = Conv (x, w44)",
        GAP,
    ),
}

TOKENS = f"{DOWN} r = Reshape (c, row) t = Transpose <perm = [0, 2, 1]> (r)"
REFUSED: dict[str, tuple[str, str]] = {  # lines, what is said
    "a mean image": (
        "s = Sub (image, picture) map = Conv (s, w1)",
        r"Sub 's': a constant of shape \[1, 2, 17, 23\] differs from position to position in the window",
    ),
    "coordinates beside the image": (
        "s = Concat <axis = 1> (image, picture) map = Conv (s, wp)",
        r"Concat 's': a constant of shape \[1, 2, 17, 23\] differs from position to position in the window.*"
        r"coordinates, or a position embedding: the exact engine, --exact, keeps them",
    ),
    "a position embedding": (
        f"""{TOKENS} e = Add (t, embedding) u = Transpose <perm = [0, 2, 1]> (e) s = Reshape (u, grid)
            map = Conv (s, w3)""",
        r"Add 'e': .*\(a position embedding, a relative position bias\)",
    ),
    "a class token": (
        f"""{TOKENS} e = Concat <axis = 1> (token, t) u = Transpose <perm = [0, 2, 1]> (e)
            k = MatMul (e, u) y = Softmax <axis = -1> (k) z = MatMul (y, e)
            map = Transpose <perm = [0, 2, 1]> (z)""",
        r"cannot convert Concat 'e': it puts 1 token beside the 88 positions \(a class token\)",
    ),
    "a sequence of positions": (
        f"""{DOWN} r = Reshape (c, row) t = Transpose <perm = [2, 0, 1]> (r)
            y, h, k = LSTM <hidden_size = 4> (t, lw, lr) u = Squeeze[0] (h) map = Unsqueeze[2, 3] (u)""",
        r"LSTM 'y'.*it runs over a sequence in order",
    ),
    "boxes": (
        f"{DOWN} map = RoiAlign <output_height = 2, output_width = 2> (c, boxes, which)",
        r"RoiAlign 'map'.*it reads boxes that depend on the image: a detector",
    ),
    "places of maxima": (
        f"""{DOWN} p, i = MaxPool <kernel_shape = [2, 2]> (c) f = Cast <to = 1> (i) s = Add (p, f)
            map = Conv (s, w44)""",
        r"MaxPool 'p'.*the places of the maxima, counts through the window's own cells",
    ),
    "weights from the image": (
        f"{DOWN} g = ReduceMean[0, 2, 3] <keepdims = 1> (c) k = Mul (g, w3) map = Conv (c, k)",
        r"ReduceMean 'g'.*it reduces over the batch",
    ),
}
