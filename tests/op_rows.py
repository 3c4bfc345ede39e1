"""A row for every op of the matrix: a trunk it stands in, a head it is lifted in, a net it is refused in.

In a trunk `c` is a map [1, 4, 8, 11], `s` the same between 0 and 1, and the op makes `map` of them; in a
head `c` and `s` are [1, 8], features of the map `m`. `TWICE` are the lines that serve for both.
"""

from __future__ import annotations

DECLARED = (  # N stands for the images of the batch
    "float[4,2,3,3] w1, float[8,352] wf, float[8,4,1,1] w84, float[4,4,2,2] wt, float[3,4,8,11] whole, "
    "float[8,8] w88, float[4,4] kernel, float[1,4,8,11] picture, float[4] gamma, float[4] beta, float[4] "
    "mean, float[4] var, float[8] gamma8, float[8] beta8, float[8] mean8, float[8] var8, float[4,1,1] "
    "slope3, float[8] slope1, float[8] bias1, float[4] one4, float[2] gain2, float[2] bias2, float zero = "
    "{0.0}, float half = {0.5}, float[2] values = {0.0, 1.0}, float[4] scales = {1.0, 1.0, 2.0, 2.0}, "
    "float sc = {0.05}, uint8 z = {128}, int8 zi = {0}, float sw = {0.02}, float unit = {0.00390625}, "
    "uint8 none = {0}, int8[4,4,1,1] q44, int8[3,4,8,11] whole_q, int8[8,8] i88, int64[1] k0 = {0}, "
    "int64[1] axis1 = {1}, int64[1] k2 = {2}, int64[1] k4 = {4}, int64 along = {1}, int64 depth = {8}, "
    "int64[2] flat = {1, -1}, int64[3] pairs = {N, 2, 4}, int64[3] rows = {N, 4, 88}, int64[4] grid = {N, "
    "4, 8, 11}, int64[3] column = {N, 8, 1}, int64[4] column2 = {N, 8, 1, 1}, int64[3] tripled = {1, 3, "
    "8}, int64[3] turned = {6, 0, 3}, int64[1,8] places = {7, 6, 5, 4, 3, 2, 1, 0}, int64[4] repeats = "
    "{1, 2, 1, 1}, int64[2] repeats1 = {1, 2}, bool[2,1,1,1] seen = {1, 0}, int64[3] inside = {1, 2, 3}, "
    "int64 none64 = {0}, float[N,2] single, int64[4] twice = {2, 1, 1, 1}, int64 k00 = {0}, "
    "int64[N,4,8,11] places4, int64[8] pads0 = {1, 0, 0, 0, 0, 0, 0, 0}, bool yes = {1}, int64[4] sized = "
    "{N, 4, 5, 5}, float[N,5,5,2] spots, float[N,88,2] turn, float[2,1,1,1] pair, uint8[2,1,1,1] pair_q = "
    "{90, 170}, int64 depth4 = {4}, float[6,352] w6, int64[3] two3 = {N, 2, 3}, int64[4] small = {N, 2, "
    "2, 2}, float[2,1,2,2] wt2, int64[4] four = {N, 4, 4, 4}, float[32,352] w32, float[32] b32, "
    "uint8[4,4] u44, float[2,1,11,11] pair11, int64[2] two_four = {4, 4}, int64[4] folded8 = {N, 8, 2, "
    "2}, float[4,2,1,1] w42, float[4,32,1,1] w432, float[4,8,1,1] w48, int8[4,4] i44, int64[4] eight4 = "
    "{N, 1, 8, 1}, bool[4] mask4 = {1, 1, 1, 1}, float[4,4,2,2] w4422, float[N,8,7,10] offsets, "
    "float[1,4,4] rw4, float[1,4,4] rr4, float[1,12,4] gw4, float[1,12,4] gr4, float[1,16,4] lw4, "
    "float[1,16,4] lr4, int64[4] back = {N, 4, 1, 1}, int64[1,1] wherever, int64[N,1,8,11] spots1x, "
    "float[N,1,8,11] updates, int64[1,2] wherever1, float[1,8,11] updates1, int64[5] five = {3, N, 4, 8, "
    "11}, int64 turns = {2}, float[1,5] boxes, float[1,4] boxes4, int64[3] boxes3 = {N, 88, 4}, int64[N] "
    "lengths = {4, 4}, int8[N,2] single_q, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, int64[4] pads1 = {0, "
    "1, 0, 1}"
)

ANYWHERE = (
    "Abs", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Swish", "Tan", "Tanh",
    "ThresholdedRelu",
)  # fmt: skip
BETWEEN = ("Acos", "Asin", "Atanh", "Log", "Reciprocal", "Sqrt")  # asked for values from 0 to 1
PAIRS = ("Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum")
COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
LOGICAL = ("And", "Or", "Xor")
GELUS = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")

MICROSOFT = "com.microsoft."
Q = "q = QuantizeLinear (c, sc, z)"
DQ = "map = DequantizeLinear (d, sc, z)"

TWICE: dict[str, str] = {
    **{op: f"map = {op} (c)" for op in ANYWHERE},
    **{op: f"map = {op} (s)" for op in BETWEEN},
    **{op: f"map = {op} (c, s)" for op in PAIRS},
    **{op: f"b = {op} (c, s) map = Cast <to = 1> (b)" for op in COMPARED},
    **{op: f"a = Less (c, s) b = Less (c, zero) d = {op} (a, b) map = Cast <to = 1> (d)" for op in LOGICAL},
    **{f"{MICROSOFT}{op}": f"map = {MICROSOFT}{op} (c)" for op in GELUS[1:]},
    "Acosh": "e = Exp (s) map = Acosh (e)",
    "Cast": "i = Cast <to = 7> (c) map = Cast <to = 1> (i)",
    "Clip": "map = Clip (c, zero, half)",
    "DequantizeLinear": f"{Q} map = DequantizeLinear (q, sc, z)",
    "Div": "map = Div (c, s)",
    "Dropout": "map = Dropout (c)",
    "IsInf": "r = Relu (c) l = Log (r) b = IsInf (l) map = Cast <to = 1> (b)",
    "IsNaN": "l = Log (c) b = IsNaN (l) map = Cast <to = 1> (b)",
    "Mod": "map = Mod <fmod = 1> (c, s)",
    "Not": "a = Less (c, zero) b = Not (a) map = Cast <to = 1> (b)",
    "Pow": "map = Pow (s, c)",
    "QuantizeLinear": f"{Q} map = Cast <to = 1> (q)",
    "Where": "b = Less (c, zero) map = Where (b, c, s)",
    f"{MICROSOFT}DequantizeLinear": f"{Q} map = {MICROSOFT}DequantizeLinear (q, sc, z)",
    f"{MICROSOFT}QuantizeLinear": (
        f"q = {MICROSOFT}QuantizeLinear (c, sc, z) map = DequantizeLinear (q, sc, z)"
    ),
    f"{MICROSOFT}QLinearAdd": (
        f"{Q} r = QuantizeLinear (s, sc, z) d = {MICROSOFT}QLinearAdd (q, sc, z, r, sc, z, sc, z) {DQ}"
    ),
    f"{MICROSOFT}QLinearMul": (
        f"{Q} r = QuantizeLinear (s, sc, z) d = {MICROSOFT}QLinearMul (q, sc, z, r, sc, z, sc, z) {DQ}"
    ),
    f"{MICROSOFT}QLinearLeakyRelu": (
        f"{Q} d = {MICROSOFT}QLinearLeakyRelu <alpha = 0.1> (q, sc, z, sc, z) {DQ}"
    ),
    f"{MICROSOFT}QLinearSigmoid": f"{Q} d = {MICROSOFT}QLinearSigmoid (q, sc, z, sc, z) {DQ}",
}

KEEP = "<axes = [1], keepdims = 1>"
REDUCED = ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
REDUCED = (*REDUCED, "ReduceLogSum", "ReduceSum", "ReduceSumSquare")
HALF = "kernel_shape = [2, 2], strides = [2, 2]"
POOLED = "kernel_shape = [8, 11]"

TRUNKS: dict[str, tuple[str, int, str]] = {  # lines, channels of the map, verdict
    **{op: (lines, 4, "exact") for op, lines in TWICE.items()},
    **{op: (f"map = {op} <keepdims = 1> (s, axis1)", 1, "exact") for op in REDUCED},
    **{op: (f"m = {op} <axis = 1> (c) map = Cast <to = 1> (m)", 1, "exact") for op in ("ArgMax", "ArgMin")},
    **{op: (f"map = {op} <axis = 1> (c)", 4, "exact") for op in ("Hardmax", "LogSoftmax", "Softmax")},
    "AveragePool": (f"map = AveragePool <{HALF}> (c)", 4, "exact"),
    "LpPool": (f"map = LpPool <{HALF}> (c)", 4, "exact"),
    "MaxPool": (f"map = MaxPool <{HALF}> (c)", 4, "exact"),
    "BatchNormalization": ("map = BatchNormalization (c, gamma, beta, mean, var)", 4, "exact"),
    "Concat": ("map = Concat <axis = 1> (c, s)", 8, "exact"),
    "Conv": ("map = Conv (c, w84)", 8, "exact"),
    "ConvInteger": (f"{Q} d = ConvInteger (q, q44, z, zi) map = Cast <to = 1> (d)", 4, "exact"),
    "QLinearConv": (f"{Q} d = QLinearConv (q, sc, z, q44, sw, zi, sc, z) {DQ}", 4, "exact"),
    "ConvTranspose": ("map = ConvTranspose <strides = [2, 2]> (c, wt)", 4, "exact"),
    "DepthToSpace": ("map = DepthToSpace <blocksize = 2> (c)", 1, "exact"),
    "SpaceToDepth": (
        "p = MaxPool <kernel_shape = [1, 2]> (c) map = SpaceToDepth <blocksize = 2> (p)",
        16,
        "exact",
    ),
    "DynamicQuantizeLinear": (
        "q, e, f = DynamicQuantizeLinear (c) d = ConvInteger (q, q44, f) i = Cast <to = 1> "
        "(d) map = Mul (i, e)",
        4,
        "global",
    ),
    "Einsum": ("""map = Einsum <equation = "bchw,cd->bdhw"> (c, kernel)""", 4, "exact"),
    "Expand": ("a = ReduceMean <keepdims = 1> (c, axis1) map = Expand (a, grid)", 4, "exact"),
    "Flatten": ("f = Flatten <axis = 2> (c) map = Reshape (f, grid)", 4, "exact"),
    "Reshape": ("f = Reshape (c, rows) map = Reshape (f, grid)", 4, "exact"),
    "Squeeze": ("u = Unsqueeze (c, axis1) map = Squeeze (u, axis1)", 4, "exact"),
    "Unsqueeze": ("u = Unsqueeze (c, axis1) r = Relu (u) map = Squeeze (r, axis1)", 4, "exact"),
    "Transpose": (
        "t = Transpose <perm = [0, 2, 3, 1]> (c) map = Transpose <perm = [0, 3, 1, 2]> (t)",
        4,
        "exact",
    ),
    "Gather": ("map = Gather <axis = 1> (c, k2)", 1, "exact"),
    "Slice": ("map = Slice (c, axis1, k2, axis1)", 1, "exact"),
    "Split": ("a, b = Split <axis = 1, num_outputs = 2> (c) map = Sub (a, b)", 2, "exact"),
    "Tile": ("map = Tile (c, repeats)", 8, "exact"),
    "Upsample": ("map = Upsample (c, scales)", 4, "exact"),
    "Resize": (
        'map = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (c, , scales)',
        4,
        "exact",
    ),
    "LRN": ("map = LRN <size = 3> (c)", 4, "exact"),
    "GroupNormalization": ("map = GroupNormalization <num_groups = 2> (c, gamma, beta)", 4, "global"),
    "InstanceNormalization": ("map = InstanceNormalization (c, gamma, beta)", 4, "global"),
    "MeanVarianceNormalization": (
        "n = MeanVarianceNormalization <axes = [2, 3]> (c) map = Relu (n)",
        4,
        "global",
    ),
    "LayerNormalization": (
        "t = Transpose <perm = [0, 2, 3, 1]> (c) n = LayerNormalization (t, gamma) "
        "map = Transpose <perm = [0, 3, 1, 2]> (n)",
        4,
        "exact",
    ),
    "RMSNormalization": (
        "t = Transpose <perm = [0, 2, 3, 1]> (c) n = RMSNormalization (t, gamma) "
        "map = Transpose <perm = [0, 3, 1, 2]> (n)",
        4,
        "exact",
    ),
    "LpNormalization": ("map = LpNormalization <axis = 1> (c)", 4, "exact"),
    "MatMul": (
        "t = Transpose <perm = [0, 2, 3, 1]> (c) n = MatMul (t, kernel) map = Transpose <perm"
        " = [0, 3, 1, 2]> (n)",
        4,
        "exact",
    ),
    "Pad": ("map = Pad (c, pads)", 4, "padded"),
    "PRelu": ("map = PRelu (c, slope3)", 4, "exact"),
    f"{MICROSOFT}BiasGelu": (
        f"t = Transpose <perm = [0, 2, 3, 1]> (c) n = {MICROSOFT}BiasGelu (t, one4) "
        "map = Transpose <perm = [0, 3, 1, 2]> (n)",
        4,
        "exact",
    ),
    f"{MICROSOFT}QLinearAveragePool": (
        f"{Q} d = {MICROSOFT}QLinearAveragePool <kernel_shape = [2, 2]> (q, sc, z, sc, z) {DQ}",
        4,
        "exact",
    ),
    f"{MICROSOFT}QLinearConcat": (
        f"{Q} d = {MICROSOFT}QLinearConcat <axis = 1> (sc, z, q, sc, z, q, sc, z) {DQ}",
        8,
        "exact",
    ),
}

HEAD_ONLY = {
    *(
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "CumSum",
        "GatherElements",
        "OneHot",
        "TopK",
        "Gemm",
    ),
    *("MatMulInteger", "QLinearMatMul", f"{MICROSOFT}QGemm", f"{MICROSOFT}QLinearGlobalAveragePool"),
    f"{MICROSOFT}QLinearSoftmax",
}
OPSETS = {
    "Upsample": 9,
    "Scatter": 10,
    "Swish": 24,
    "GlobalLpPool": 21,
    "MaxRoiPool": 21,
    "RoiAlign": 21,
    "MaxUnpool": 21,
}  # where it is not 23
