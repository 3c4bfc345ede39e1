"""A row for every op that is lifted in a head; `op_rows` says what its lines begin with."""

from __future__ import annotations

from op_rows import DQ, MICROSOFT, REDUCED, TWICE, Q

WINDOW = "kernel_shape = [8, 11]"
FLAT = "map = Flatten (p)"

HEADS: dict[str, tuple[str, int]] = {  # lines, features they make
    **{op: (lines, 8) for op, lines in TWICE.items()},
    **{op: (f"r = Reshape (s, pairs) map = {op} <keepdims = 0> (r, axis1)", 4) for op in REDUCED},
    **{
        op: (f"r = Reshape (c, pairs) a = {op} <axis = 1, keepdims = 0> (r) map = Cast <to = 1> (a)", 4)
        for op in ("ArgMax", "ArgMin")
    },
    **{op: (f"map = {op} <axis = 1> (c)", 8) for op in ("Hardmax", "LogSoftmax", "Softmax")},
    **{op: (f"p = {op} <{WINDOW}> (m) {FLAT}", 4) for op in ("AveragePool", "LpPool", "MaxPool")},
    **{op: (f"p = {op} (m) {FLAT}", 4) for op in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")},
    "BatchNormalization": ("map = BatchNormalization (c, gamma8, beta8, mean8, var8)", 8),
    "Concat": ("map = Concat <axis = 1> (c, s)", 16),
    "Conv": (f"p = Conv (m, whole) {FLAT}", 3),
    "ConvInteger": (
        f"q = QuantizeLinear (m, sc, z) d = ConvInteger (q, whole_q, z, zi) p = Cast <to = 1> (d) {FLAT}",
        3,
    ),
    "QLinearConv": (
        "q = QuantizeLinear (m, sc, z) d = QLinearConv (q, sc, z, whole_q, sw, zi, sc, z) "
        f"p = DequantizeLinear (d, sc, z) {FLAT}",
        3,
    ),
    "CumSum": ("map = CumSum (c, along)", 8),
    "Einsum": ("""map = Einsum <equation = "bf,kf->bk"> (c, w88)""", 8),
    "Expand": ("r = Unsqueeze (c, axis1) e = Expand (r, tripled) map = Flatten (e)", 24),
    "Flatten": ("map = Flatten (m)", 352),
    "Reshape": ("map = Reshape (m, flat)", 352),
    "Squeeze": ("u = Unsqueeze (c, k2) map = Squeeze (u, k2)", 8),
    "Unsqueeze": ("u = Unsqueeze (c, axis1) r = Relu (u) map = Flatten (r)", 8),
    "Transpose": ("r = Reshape (c, pairs) t = Transpose <perm = [0, 2, 1]> (r) map = Flatten (t)", 8),
    "Gather": ("map = Gather <axis = 1> (c, turned)", 3),
    "GatherElements": ("map = GatherElements <axis = 1> (c, places)", 8),
    "Slice": ("map = Slice (c, axis1, k4, axis1)", 3),
    "Split": ("a, b = Split <axis = 1, num_outputs = 2> (c) map = Mul (a, b)", 4),
    "Tile": ("map = Tile (c, repeats1)", 16),
    "Gemm": ("map = Gemm <transB = 1> (c, w88, slope1)", 8),
    "GroupNormalization": (
        "r = Reshape (c, column) n = GroupNormalization <num_groups = 2> (r, slope1, bias1) "
        "map = Flatten (n)",
        8,
    ),
    "InstanceNormalization": (
        "r = Reshape (c, pairs) n = InstanceNormalization (r, gain2, bias2) map = Flatten (n)",
        8,
    ),
    "LRN": ("r = Reshape (c, column2) n = LRN <size = 3> (r) map = Flatten (n)", 8),
    "LayerNormalization": ("map = LayerNormalization (c, slope1, bias1)", 8),
    "RMSNormalization": ("map = RMSNormalization (c, slope1)", 8),
    "LpNormalization": ("map = LpNormalization <axis = 1> (c)", 8),
    "MatMul": ("map = MatMul (c, w88)", 8),
    "MatMulInteger": (f"{Q} d = MatMulInteger (q, i88, z, zi) map = Cast <to = 1> (d)", 8),
    "QLinearMatMul": (f"{Q} d = QLinearMatMul (q, sc, z, i88, sw, zi, sc, z) {DQ}", 8),
    "OneHot": ("a = ArgMax <axis = 1, keepdims = 0> (c) map = OneHot (a, depth, values)", 8),
    "PRelu": ("map = PRelu (c, slope1)", 8),
    "Pad": ("map = Pad (c, pads1)", 10),
    "TopK": ("v, i = TopK <axis = 1> (c, k4) w = Cast <to = 1> (i) map = Concat <axis = 1> (v, w)", 8),
    f"{MICROSOFT}BiasGelu": (f"map = {MICROSOFT}BiasGelu (c, slope1)", 8),
    f"{MICROSOFT}QGemm": (f"{Q} d = {MICROSOFT}QGemm (q, sc, z, i88, sw, zi, , sc, z) {DQ}", 8),
    f"{MICROSOFT}QLinearAveragePool": (
        f"q = QuantizeLinear (m, sc, z) d = {MICROSOFT}QLinearAveragePool <{WINDOW}> (q, sc, z, sc, z) "
        f"p = DequantizeLinear (d, sc, z) {FLAT}",
        4,
    ),
    f"{MICROSOFT}QLinearGlobalAveragePool": (
        f"q = QuantizeLinear (m, sc, z) d = {MICROSOFT}QLinearGlobalAveragePool (q, sc, z, sc, z) "
        f"p = DequantizeLinear (d, sc, z) {FLAT}",
        4,
    ),
    f"{MICROSOFT}QLinearConcat": (
        f"{Q} d = {MICROSOFT}QLinearConcat <axis = 1> (sc, z, q, sc, z, q, sc, z) {DQ}",
        16,
    ),
    f"{MICROSOFT}QLinearSoftmax": (
        f"{Q} d = {MICROSOFT}QLinearSoftmax <axis = 1, opset = 13> (q, sc, z, unit, none) "
        "map = DequantizeLinear (d, unit, none)",
        8,
    ),
}
