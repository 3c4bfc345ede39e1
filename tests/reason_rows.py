"""Lines of nets that few exporters write: settings that depend on the image, rows as channels.

Each makes `map` of the map `c`, or the features `folded`.
"""

from __future__ import annotations

DECLARED = (
    "float[4,2,3,3] w1, float[1,4,8,11] picture, float[1,1,8,11] plain, float[4] gamma, float[4] beta, "
    "float[4] mean, float[4] var, float[2] gamma2, float[2] beta2, float[2] mean2, "
    "float[2] var2 = {0.5, 0.9}, "
    "float[1] unit = {1.0}, float[1,4] w14, float[36,4] w36, float[8,4] w84, float[4,8,1,1] w48, "
    "float[8,4,1,1] wt84, float[3,8,4,11] w3, float[3,4,3,3] w333, float[3,4,10,11] tall,"
    " float[11,11] w1111, "
    "float[4,4] w44, float[8] row8, float[352] each, float[1,8] wide, float[1,4,8,8] "
    "experts, float[1,4,8] many, "
    "int64[1] k0 = {0}, int64[1] k1 = {1}, int64[1] k2 = {2}, int64[1] five = {5}, int64 axis = {1}, "
    "int64[3] rows = {1, 4, 88}, int64[4] turned = {1, 8, 4, 11}, int64[4] small = {1, 4, 3, 3}, "
    "int64[3] pairs = {1, 2, 2}, int64[2] flat = {1, -1}, int64[3] two_by = {2, 4, 88}, "
    "int64[4] grid = {1, 4, 8, 11}, int64[4] two_grid = {2, 4, 8, 11}, float[4,3] table, "
    "int8[352,3] i3523, "
    "float[2] values = {0.0, 1.0}, int64 depth = {4}, float[4] shrink = {1.0, 1.0, 0.125, 0.09090909}, "
    "float[4] odd = {1.0, 1.0, 1.1, 1.1}, float[2] twice = {2.0, 2.0}, float[2,1,1] pair,"
    " int64[3] again = {0, 0, 1}, "
    "float sc = {0.05}, uint8 z = {128}, int8 zi = {0}, float sw = {0.02}, float[8] "
    "scales8, uint8[8] zeros8, "
    "float[2] scales2 = {0.05, 0.06}, uint8[2] zeros2 = {120, 130}, int8[3,3] i33, "
    "int8[4,3] i43, int8[3,3] j33, "
    "uint8[8,3] u83, int8[11,11] i1111, int8[5,352] bytes, float[5] factors = {0.01, "
    "0.02, 0.03, 0.01, 0.02}, "
    "int32[5] drift, float[5] steps = {0.001, 0.002, 0.003, 0.001, 0.002}, int8[3,8,4,11]"
    " q3, int8[3,4,10,11] tall_q, uint8[704,3] u704, "
    "float[2,1,1,1] halves, float[1] ones1 = {1.0}, float top = {0.5}, int64[2] middle = "
    "{1, 2}, int64[2] loose = {88, 4}, int64[3] tokens = {1, 88, 4}, int64[3] few = {1, "
    "4, 20}, int64[3] eight = {1, 4, 8}, float[4] crooked = {1.0, 1.0, 1.3717, 1.3717}, "
    "int64[1] k3 = {3}"
)
FIRST = "c = Conv <strides = [2, 2]> (image, w1)"
POOL = "pooled = GlobalAveragePool (map) folded = Flatten (pooled)"
SOME = "g = GlobalAveragePool (c) f = Flatten (g) v0 = ArgMax <axis = 1, keepdims = 0> (f)"  # v0: int64[1]
ONE = f"{SOME} n0 = Mul (v0, k0) n1 = Add (n0, k1)"  # n1: int64[1], a 1
LEVEL = f"{SOME} level = Cast <to = 1> (v0)"  # float[1]
Q = "q = QuantizeLinear (c, sc, z)"
TURNED = "t = Transpose <perm = [0, 2, 1, 3]> (c)"
ROWS = "r = Reshape (c, rows) t = Transpose <perm = [0, 2, 1]> (r)"
ALIKE = f"{ROWS} k = MatMul (t, r) a = Softmax <axis = -1> (k)"  # [1, 88, 88], a row for each position
THREE = "pooled = MaxPool <kernel_shape = [8, 11]> (c) e = Flatten (pooled) y = Gemm <transB = 1> (e, w36)"

ATTENTION: dict[str, str] = {  # lines that multiply what looks at a map by what is no such map
    "positions of a finer grid": (
        f"{ROWS} p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) k0s = Reshape (p, few) "
        "k = MatMul (t, k0s) a = Softmax <axis = -1> (k) "
        "o = MaxPool <kernel_shape = [1, 2], strides = [2, 2]> (c) v0 = Reshape (o, few) "
        "v = Transpose <perm = [0, 2, 1]> (v0) y = MatMul (a, v)"
    ),
    "what looks at them": f"{ALIKE} v = Transpose <perm = [0, 2, 1]> (a) m = MatMul (a, v) y = MatMul (m, t)",
    "as many positions of one axis": (
        f"{ROWS} p = MaxPool <kernel_shape = [2, 5], strides = [2, 5]> (c) k0s = Reshape (p, eight) "
        "k = MatMul (t, k0s) a = Softmax <axis = -1> (k) o = MaxPool <kernel_shape = [1, 11]> (c) "
        "v0 = Reshape (o, eight) v = Transpose <perm = [0, 2, 1]> (v0) y = MatMul (a, v)"
    ),
}

REFUSED: dict[str, tuple[str, int, str]] = {  # lines, features, what is said
    "an end from the image": (
        f"{ONE} map = Slice (c, k0, n1, k1)",
        1,
        "the places it takes depend on the image",
    ),
    "a step from the image": (
        f"{ONE} folded = Slice (f, k0, k2, k1, n1)",
        2,
        "the places it takes depend on the image",
    ),
    "a size from the image": (f"{ONE} map = Resize <axes = [2]> (c, , , n1)", 4, "sets how it works"),
    "a shape from the image": (
        f"{ONE} h = Reshape (unit, n1) folded = Mul (f, h)",
        4,
        "depends on the image",
    ),
    "an expansion from the image": (f"{ONE} folded = Expand (f, n1)", 4, "the size it expands to depends"),
    "repeats from the image": (f"{ONE} map = Expand (c, n1)", 4, "the size it expands to depends"),
    "a depth from the image": (
        f"{ONE} d = Add (n1, five) o = OneHot (v0, d, values) folded = Slice (o, k0, k2, k1)",
        2,
        "depth or its values depend",
    ),
    "an axis from the image": (f"{ONE} folded = CumSum (f, n1)", 4, "the dim it adds up along depends"),
    "statistics from the image": (
        f"{LEVEL} a = Gemm <transB = 1> (f, w14) folded = BatchNormalization (a, level, unit, unit, unit)",
        1,
        "its statistics depend on the image",
    ),
    "a norm's scale from the image": (
        f"{LEVEL} a = Gemm <transB = 1> (f, w14) folded = LayerNormalization (a, level)",
        1,
        "its scale depends on the image",
    ),
    "a zero point from the image": (
        f"{LEVEL} u = Cast <to = 2> (level) qf = QuantizeLinear (f, sc, z) d = MatMulInteger "
        "(qf, i43, u, zi) "
        "folded = Cast <to = 1> (d)",
        3,
        "the zero point of its features depends on the image",
    ),
    "a matrix's zero point from the image": (
        f"{LEVEL} u = Cast <to = 3> (level) qf = QuantizeLinear (f, sc, z) d = MatMulInteger (qf, i43, z, u) "
        "folded = Cast <to = 1> (d)",
        3,
        "the scale of its matrix depends on the image",
    ),
    "a scale of features from the image": (
        f"{LEVEL} qf = QuantizeLinear (f, sc, z) d = QLinearMatMul (qf, level, z, i43, sw, zi, sc, z) "
        "folded = DequantizeLinear (d, sc, z)",
        3,
        "depends on the image or differs by row",
    ),
    "an image as weights": ("map = Conv (picture, c)", 1, "its weights, not its data, depend on the image"),
    "a map as weights": (
        "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) map = Conv (c, p)",
        1,
        "its weights depend on the image",
    ),
    "an image as weights, transposed": (
        "map = ConvTranspose (plain, c)",
        4,
        "its weights, not only its data, depend on the image",
    ),
    "rows as channels": (f"{TURNED} map = Conv (t, w48)", 4, "window's cells as a map"),
    "rows as channels, transposed": (
        f"{TURNED} map = ConvTranspose (t, wt84)",
        4,
        r"it slides over the channels of \[1, 8, 4, 11\]",
    ),
    "rows as channels, local": (f"{TURNED} map = LRN <size = 3> (t)", 8, "its channels are positions"),
    "rows as channels, regrouped": (
        f"{TURNED} map = DepthToSpace <blocksize = 2> (t)",
        2,
        "its channels are positions",
    ),
    "features as another map": ("r = Reshape (c, turned) map = Conv (r, w3)", 3, "window's cells as a map"),
    "bytes of features as another map": (
        f"{Q} r = Reshape (q, turned) d = QLinearConv (r, sc, z, q3, sw, zi, sc, z) "
        "map = DequantizeLinear (d, sc, z)",
        3,
        "it slides over",
    ),
    "a map regrouped to one cell": (
        "p = MaxPool <kernel_shape = [4, 5], strides = [4, 5]> (c) d = SpaceToDepth <blocksize = 2> (p) "
        "folded = Flatten (d)",
        16,
        "it leaves one cell of the window",
    ),
    "a kernel of integers over cells and pads": (
        f"{Q} d = QLinearConv <pads = [1, 0, 1, 0]> (q, sc, z, tall_q, sw, zi, sc, z) "
        "e = DequantizeLinear (d, sc, z) folded = Flatten (e)",
        3,
        "it slides over a map made of features",
    ),
    "bytes read twice": (
        f"{Q} a = Flatten (q) k = Gather <axis = 1> (a, again) d = MatMulInteger (k, j33, z, zi) "
        "folded = Cast <to = 1> (d)",
        3,
        "it reads a feature twice, by a matrix of small integers",
    ),
    "a map resized by a scale of no fraction": (
        "map = Resize (c, , crooked)",
        4,
        r"float32 does not keep its scale 1\.25",
    ),
    "a map shrunk to a cell": ("map = Resize (c, , shrink)", 4, "no map any more"),
    "a map multiplied by integers": (
        f"{Q} d = QLinearMatMul (q, sc, z, i1111, sw, zi, sc, z) map = DequantizeLinear (d, sc, z)",
        4,
        "it makes a product per row",
    ),
}

CONVERTED: dict[str, tuple[str, int]] = {  # lines, features
    "a kernel over cells and pads": ("d = Conv <pads = [1, 0, 1, 0]> (c, tall) folded = Flatten (d)", 3),
    "a kernel over features": (f"{THREE} r = Reshape (y, small) d = Conv (r, w333) folded = Flatten (d)", 3),
    "a pool that leaves features out": (
        f"{THREE} r = Reshape (y, small) d = MaxPool <kernel_shape = [2, 3], strides = [2, 2]> (r) "
        "folded = Flatten (d)",
        4,
    ),
    "a pool over features and pads": (
        f"{THREE} r = Reshape (y, small) d = AveragePool <kernel_shape = [4, 4], pads = [1, 1, 0, 0], "
        "count_include_pad = 1> (r) folded = Flatten (d)",
        4,
    ),
    "a scale per row": (
        "q = QuantizeLinear <axis = 2> (c, scales8, zeros8) map = DequantizeLinear <axis = 2>"
        " (q, scales8, zeros8)",
        4,
    ),
    "a norm of groups of features": (
        "g = GlobalAveragePool (c) r = Reshape (g, pairs) n = BatchNormalization (r, gamma2, "
        "beta2, mean2, var2) "
        "folded = Flatten (n)",
        4,
    ),
    "a slope for each cell": ("s = Relu (c) map = PRelu (c, s)", 4),
    "a table read at places of a map": (
        "a = ArgMax <axis = 1, keepdims = 0> (c) e = Gather <axis = 0> (table, a) "
        "p = ReduceMean <keepdims = 0> (e, middle) folded = Identity (p)",
        3,
    ),
    "two layers of integers": (
        f"{Q} a = Flatten (q) d = com.microsoft.QGemm (a, sc, z, i3523, sw, zi, , sc, z) "
        "folded = com.microsoft.QGemm (d, sc, z, j33, sw, zi)",
        3,
    ),
    "a map resized by an odd scale": (
        "u = Resize (c, , odd) p = GlobalAveragePool (u) folded = Flatten (p)",
        4,
    ),
    "a bias quantized where features are scaled": (
        "e = Flatten (c) m = Mul (e, each) w = DequantizeLinear <axis = 0> (bytes, factors) "
        "b = DequantizeLinear <axis = 0> (drift, steps) folded = Gemm <transB = 1> (m, w, b)",
        5,
    ),
    "a layer over rows with another of rows added": (
        f"{ROWS} a = Reshape (t, loose) s = Relu (a) y = Gemm (a, w44, s) u = Reshape (y, tokens) "
        "folded = ReduceMean <keepdims = 0> (u, k1)",
        4,
    ),
    "columns multiplied": ("map = MatMul (c, w1111)", 4),
    "two maps summed up": (
        "s = Relu (c) e = Einsum <equation = 'bchw,bdhw->bcd'> (c, s) folded = Flatten (e)",
        16,
    ),
    "cells in another order added": (
        "t = Transpose <perm = [0, 1, 3, 2]> (c) a = Reshape (t, rows) b = Reshape (c, rows) d = Add (a, b) "
        "folded = Flatten (d)",
        352,
    ),
    "a map of fewer dims added": ("m = ReduceMean <keepdims = 0> (c, k1) map = Add (c, m)", 4),
    "maps of turned axes added": (
        "t = Transpose <perm = [0, 1, 3, 2]> (c) u = MaxPool <kernel_shape = [4, 1]> (t) "
        "v = MaxPool <kernel_shape = [1, 4]> (c) map = Add (u, v)",
        4,
    ),
    "experts, and one row for all": (
        "g = GlobalAveragePool (c) f = Flatten (g) y = Gemm <transB = 1> (f, w84) k = Softmax (f) "
        "u = Unsqueeze (k, k2) a = Unsqueeze (y, k1) m = MatMul (u, a) n = Transpose <perm = [0, 2, 1]> (m) "
        "o = MatMul (m, n) p = Add (o, f) h = Clip (p, , top) folded = ReduceSum <keepdims = 0> (h, k1)",
        4,
    ),
    "bytes of two branches": (
        f"{Q} a = Flatten (q) e = Relu (c) qe = QuantizeLinear (e, sc, z) b = Flatten (qe) "
        "k = Concat <axis = 1> (a, b) d = QLinearMatMul (k, sc, z, u704, sw, z, sc, z) "
        "folded = DequantizeLinear (d, sc, z)",
        3,
    ),
    "a sum of two branches": (
        "a = Flatten (c) e = Relu (c) b = Flatten (e) k = Concat <axis = 1> (a, b) "
        "s = ReduceSum <keepdims = 1> (k, k1) folded = Concat <axis = 1> (s, s)",
        2,
    ),
    "a map resized along two axes it names": (
        "u = Resize <axes = [2, 3], coordinate_transformation_mode = 'asymmetric', nearest_mode = 'floor'> "
        "(c, , twice) map = Relu (u)",
        4,
    ),
}

BATCHES: dict[str, tuple[str, int, int, str]] = {  # lines, features, images in the batch, what is said
    "a constant for each image of a row": (
        "r = Reshape (c, two_by) s = Mul (r, pair) map = Reshape (s, two_grid)",
        4,
        2,
        "differs from image to image of the batch",
    ),
    "a sum over images of a row": (
        "r = Reshape (c, two_by) s = ReduceSum <keepdims = 1> (r, k0) t = Sub (r, s) map = "
        "Reshape (t, two_grid)",
        4,
        2,
        "it reduces over the batch",
    ),
    "a scale for each image": (
        "g = GlobalAveragePool (c) f = Flatten (g) q = QuantizeLinear <axis = 0> (f, scales2, zeros2) "
        "folded = DequantizeLinear <axis = 0> (q, scales2, zeros2)",
        4,
        2,
        "its scale differs from image to image of the batch",
    ),
    "pads from the images": (
        "g = GlobalAveragePool (c) f = Flatten (g) v0 = ArgMax <axis = 1, keepdims = 0> (f) "
        "n0 = Mul (v0, k0) "
        "folded = Pad (f, n0)",
        4,
        4,
        "its pads depend on the image",
    ),
}
