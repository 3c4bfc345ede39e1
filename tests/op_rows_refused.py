"""A row for every op that can be refused: a net in which it is, and what is said."""

from __future__ import annotations

from op_rows import COMPARED, DQ, LOGICAL, MICROSOFT, PAIRS, REDUCED, Q

TOKENS = "r = Reshape (c, rows) t = Transpose <perm = [0, 2, 1]> (r)"
BACK = "u = Transpose <perm = [0, 2, 1]> (e) map = Reshape (u, grid)"
MADE = "f = Flatten (c) y = Gemm <transB = 1> (f, w32, b32) r = Reshape (y, folded8)"
SAME = "map = Identity (x)"
MOVES = "differs from image to image of the batch"
BATCH = r"over the batch"

REFUSED: dict[str, tuple[str, str]] = {  # lines that make `map` of `c`, what is said
    # a constant for each image of a batch of two
    **{op: (f"x = {op} (c, pair) {SAME}", MOVES) for op in (*PAIRS, "Div", "Pow")},
    **{op: (f"b = {op} (c, pair) x = Cast <to = 1> (b) {SAME}", MOVES) for op in COMPARED},
    **{op: (f"a = Less (c, zero) b = {op} (a, seen) x = Cast <to = 1> (b) {SAME}", MOVES) for op in LOGICAL},
    "MatMul": (f"x = MatMul (c, pair11) {SAME}", MOVES),
    "PRelu": (f"x = PRelu (c, pair) {SAME}", MOVES),
    "Mod": (f"x = Mod <fmod = 1> (c, pair) {SAME}", MOVES),
    "Where": (f"b = Less (c, zero) x = Where (b, c, pair) {SAME}", MOVES),
    f"{MICROSOFT}QLinearAdd": (
        f"{Q} d = {MICROSOFT}QLinearAdd (q, sc, z, pair_q, sc, z, sc, z) x = DequantizeLinear "
        f"(d, sc, z) {SAME}",
        MOVES,
    ),
    f"{MICROSOFT}QLinearMul": (
        f"{Q} d = {MICROSOFT}QLinearMul (q, sc, z, pair_q, sc, z, sc, z) x = DequantizeLinear "
        f"(d, sc, z) {SAME}",
        MOVES,
    ),
    **{
        op: (f"x = {op} <keepdims = 1> (c, k0) map = Add (x, c)", "it reduces over the batch")
        for op in REDUCED
    },
    **{
        op: (f"x = {op} <axis = 0, keepdims = 1> (c) y = Cast <to = 1> (x) map = Add (y, c)", "the batch")
        for op in ("ArgMax", "ArgMin")
    },
    **{
        op: (f"f = Flatten (c) y = {op} <axis = 0> (f) map = Reshape (y, grid)", BATCH)
        for op in ("Hardmax", "LogSoftmax", "Softmax", "LpNormalization")
    },
    # of a batch of images
    "BatchNormalization": (
        "map, a, b = BatchNormalization <training_mode = 1> (c, gamma, beta, mean, var)",
        "training mode",
    ),
    "Concat": ("a = Concat <axis = 0> (c, c) map = Gather <axis = 0> (a, k0)", "batch"),
    "CumSum": ("map = CumSum (c, none64)", "batch"),
    "Einsum": ("""map = Einsum <equation = "bchw,db->dchw"> (c, single)""", "batch"),
    "Expand": ("e = Expand (c, five) map = ReduceMean <keepdims = 0> (e, k0)", "batch"),
    "Flatten": (
        "f = Flatten (c) y = Gemm <transB = 1> (f, wf) r = Reshape (y, pairs) t = Flatten "
        "<axis = 2> (r) u = Relu (t) v = Reshape (u, eight4) map = Expand (v, grid)",
        "batch",
    ),
    "Gather": (
        "e = Gather <axis = 0> (c, k0) map = Concat <axis = 0> (e, e)",
        "it takes a part of the batch",
    ),
    "GatherElements": ("e = GatherElements <axis = 0> (c, places4) map = Relu (e)", "batch"),
    "LayerNormalization": ("map = LayerNormalization <axis = 0> (c, picture)", "batch"),
    "MeanVarianceNormalization": ("map = MeanVarianceNormalization (c)", "batch"),
    "OneHot": (
        "a = ArgMax <axis = 1, keepdims = 0> (c) o = OneHot <axis = 0> (a, depth4, values) "
        "map = Transpose <perm = [1, 0, 2, 3]> (o)",
        "batch",
    ),
    "Pad": ("e = Pad (c, pads0) map = Gather <axis = 0> (e, k0)", "it pads the batch"),
    "RMSNormalization": ("map = RMSNormalization <axis = 0> (c, picture)", "batch"),
    "Reshape": (
        "f = Flatten (c) y = Gemm <transB = 1> (f, wf) r = Reshape (y, two_four) u = Relu (r)"
        " v = Reshape (u, eight4) map = Expand (v, grid)",
        "batch",
    ),
    "Slice": ("e = Slice (c, k0, axis1, k0) map = Relu (e)", "batch"),
    "Split": ("e = Split <axis = 0, num_outputs = 1> (c) map = Relu (e)", "batch"),
    "Tile": ("e = Tile (c, twice) map = Gather <axis = 0> (e, k0)", "batch"),
    "TopK": ("e, i = TopK <axis = 0> (c, axis1) map = Relu (e)", "batch"),
    "Transpose": (
        "f = Flatten (c) t = Transpose (f) r = Relu (t) map = Reshape (r, grid)",
        "moves the batch dim",
    ),
    # settings that depend on the image
    "Clip": ("g = ReduceMax <keepdims = 0> (c, inside) map = Clip (c, zero, g)", "bounds depend"),
    "Conv": (
        "g = GlobalAveragePool (c) k = Relu (g) e = Conv (c, k) map = Expand (e, grid)",
        "window's cells as a map",
    ),
    "ConvInteger": (
        f"{Q} g = GlobalAveragePool (c) k = QuantizeLinear (g, sc, z) e = ConvInteger (q, k, "
        "z, z) i = Cast <to = 1> (e) map = Expand (i, grid)",
        "depend",
    ),
    "QLinearConv": (
        f"{Q} g = GlobalAveragePool (c) k = QuantizeLinear (g, sc, z) e = QLinearConv (q, sc, "
        "z, k, sc, z, sc, z) i = DequantizeLinear (e, sc, z) map = Expand (i, grid)",
        "depend",
    ),
    "ConvTranspose": (
        "f = Flatten (c) y = Gemm <transB = 1> (f, wf) r = Reshape (y, small) e = "
        "ConvTranspose <strides = [2, 2]> (r, wt2) map = Expand (e, four)",
        "no map any more",
    ),
    "DequantizeLinear": (
        f"{Q} g = ReduceMax <keepdims = 0> (c, inside) map = DequantizeLinear (q, g, z)",
        "scale depends",
    ),
    "QuantizeLinear": (
        "g = ReduceMax <keepdims = 0> (c, inside) q = QuantizeLinear (c, g, z) map = Cast <to = 1> (q)",
        "scale depends",
    ),
    f"{MICROSOFT}DequantizeLinear": (
        f"{Q} g = ReduceMax <keepdims = 0> (c, inside) map = {MICROSOFT}DequantizeLinear (q, g, z)",
        "scale depends",
    ),
    f"{MICROSOFT}QuantizeLinear": (
        f"g = ReduceMax <keepdims = 0> (c, inside) q = {MICROSOFT}QuantizeLinear (c, g, z) map"
        " = DequantizeLinear (q, sc, z)",
        "scale depends",
    ),
    f"{MICROSOFT}QLinearLeakyRelu": (
        f"{Q} g = ReduceMax <keepdims = 0> (c, inside) d = {MICROSOFT}QLinearLeakyRelu <alpha "
        f"= 0.1> (q, g, z, sc, z) {DQ}",
        "depend",
    ),
    f"{MICROSOFT}QLinearSigmoid": (
        f"{Q} g = ReduceMax <keepdims = 0> (c, inside) d = {MICROSOFT}QLinearSigmoid (q, g, z, sc, z) {DQ}",
        "depend",
    ),
    f"{MICROSOFT}QLinearConcat": (
        f"{Q} d = {MICROSOFT}QLinearConcat <axis = 0> (sc, z, q, sc, z, q, sc, z) e = "
        "DequantizeLinear (d, sc, z) map = Gather <axis = 0> (e, k0)",
        "batch",
    ),
    f"{MICROSOFT}QLinearSoftmax": (
        f"{Q} d = {MICROSOFT}QLinearSoftmax <axis = 0, opset = 13> (q, sc, z, unit, none) map "
        "= DequantizeLinear (d, unit, none)",
        "batch",
    ),
    f"{MICROSOFT}QLinearAveragePool": (
        f"{MADE} q = QuantizeLinear (r, sc, z) d = {MICROSOFT}QLinearAveragePool <kernel_shape = [2, 2]> "
        "(q, sc, z, sc, z) e = DequantizeLinear (d, sc, z) map = Conv (e, w48)",
        "it pools features that are no longer a map",
    ),
    "Gemm": (
        "f = Flatten (c) y = Gemm <transA = 1> (f, single) t = Transpose (y) map = Reshape (t, grid)",
        "transA",
    ),
    f"{MICROSOFT}QGemm": (
        f"{Q} f = Flatten (q) d = {MICROSOFT}QGemm <transA = 1> (f, sc, z, single_q, sw, zi, ,"
        " sc, z) y = DequantizeLinear (d, sc, z) t = Transpose (y) map = Reshape (t, grid)",
        "transA",
    ),
    "MatMulInteger": (
        f"{Q} r = Reshape (q, rows) d = MatMulInteger (i44, r, zi, z) e = Cast <to = 1> (d) "
        "map = Reshape (e, grid)",
        "depends on the image, or stands on the left",
    ),
    "QLinearMatMul": (
        f"{Q} r = Reshape (q, rows) d = QLinearMatMul (u44, sw, z, r, sc, z, sc, z) e = "
        "DequantizeLinear (d, sc, z) map = Reshape (e, grid)",
        "depends on the image, or stands on the left",
    ),
    "Dropout": ("map = Dropout (c, half, yes)", "training mode"),
    "DepthToSpace": (f"{MADE} e = DepthToSpace <blocksize = 2> (r) map = Conv (e, w42)", "no map any more"),
    "SpaceToDepth": (f"{MADE} e = SpaceToDepth <blocksize = 2> (r) map = Conv (e, w432)", "no map any more"),
    "Resize": (f"{MADE} e = Resize (r, , scales) map = Conv (e, w48)", "no map any more"),
    "Upsample": (f"{MADE} e = Upsample (r, scales) map = Conv (e, w48)", "no map any more"),
    "DynamicQuantizeLinear": (
        "f = Flatten (c) q, e, z2 = DynamicQuantizeLinear (f) d = DequantizeLinear (q, e, z2)"
        " map = Reshape (d, grid)",
        "whole tensor",
    ),
    "MaxPool": (
        "p, i = MaxPool <kernel_shape = [2, 2]> (c) f = Cast <to = 1> (i) map = Add (p, f)",
        "places of the maxima",
    ),
    "LRN": (f"{MADE} e = LRN <size = 3> (r) map = Conv (e, w48)", "local to channels"),
    "GroupNormalization": (
        "t = Transpose <perm = [0, 2, 1, 3]> (c) n = GroupNormalization <num_groups = 2> (t, "
        "gamma8, beta8) map = Transpose <perm = [0, 2, 1, 3]> (n)",
        "channels are positions",
    ),
    "InstanceNormalization": (
        "t = Transpose <perm = [0, 2, 1, 3]> (c) n = InstanceNormalization (t, gamma8, beta8)"
        " map = Transpose <perm = [0, 2, 1, 3]> (n)",
        "channels are positions",
    ),
    # refused wherever they stand
    "AffineGrid": (
        "f = Flatten (c) y = Gemm <transB = 1> (f, w6) h = Reshape (y, two3) g = AffineGrid "
        "(h, sized) k = ReduceMean <keepdims = 0> (g) map = Mul (c, k)",
        "a spatial transformer",
    ),
    "GridSample": ("map = GridSample (c, spots)", "a spatial transformer"),
    "Attention": (
        f"{TOKENS} e = Attention <q_num_heads = 1, kv_num_heads = 1> (t, t, t) {BACK}",
        "it works on tokens",
    ),
    "RotaryEmbedding": (
        f"{TOKENS} e = RotaryEmbedding <num_heads = 1> (t, turn, turn) {BACK}",
        "it works on tokens",
    ),
    "Compress": ("map = Compress <axis = 1> (c, mask4)", "depends on the data"),
    "NonZero": (
        "n = NonZero (c) i = Cast <to = 1> (n) k = ReduceMean <keepdims = 0> (i) map = Mul (c, k)",
        "depends on the data",
    ),
    "Unique": ("n = Unique (c) k = ReduceMean <keepdims = 0> (n) map = Mul (c, k)", "depends on the data"),
    "DeformConv": ("map = DeformConv (c, w4422, offsets)", "how far it reads depends"),
    **{
        op: (
            f"r = Reshape (c, rows) t = Transpose <perm = [2, 0, 1]> (r) y, h = {op} <hidden_size "
            f"= 4> (t, {w}, {v}) u = Squeeze (h, k0) map = Reshape (u, back)",
            "a sequence in order",
        )
        for op, w, v in (("RNN", "rw4", "rr4"), ("GRU", "gw4", "gr4"), ("LSTM", "lw4", "lr4"))
    },
    "GatherND": ("map = GatherND <batch_dims = 0> (c, wherever)", "places counted through the whole tensor"),
    "Scatter": ("map = Scatter <axis = 1> (c, spots1x, updates)", "places counted through the whole tensor"),
    "ScatterElements": (
        "i = ArgMax <axis = 1> (c) map = ScatterElements <axis = 1> (c, i, updates)",
        "places counted through the whole tensor",
    ),
    "ScatterND": ("map = ScatterND (c, wherever1, updates1)", "places counted through the whole tensor"),
    "If": (
        "k = ReduceMax <keepdims = 0> (c) b = Less (k, zero) map = If (b) <then_branch = a ()"
        " => (float[1,4,8,11] t) { t = Relu (c) }, else_branch = n () => (float[1,4,8,11] e) "
        "{ e = Neg (c) }>",
        "decides which branch",
    ),
    "Loop": (
        "map = Loop (turns, yes, c) <body = step (int64 i, bool go, float[1,4,8,11] x) => "
        "(bool on, float[1,4,8,11] y) { on = Identity (go) y = Relu (x) }>",
        "loop unrolled",
    ),
    "Scan": (
        "map = Scan <num_scan_inputs = 1, body = step (float[4,8,11] x) => (float[4,8,11] y) "
        "{ y = Relu (x) }> (c)",
        "loop unrolled",
    ),
    "MaxRoiPool": ("map = MaxRoiPool <pooled_shape = [2, 2]> (c, boxes)", "a detector"),
    "RoiAlign": ("map = RoiAlign <output_height = 2, output_width = 2> (c, boxes4, k0)", "a detector"),
    "MaxUnpool": (
        "p, i = MaxPool <kernel_shape = [2, 11], strides = [2, 11]> (c) map = MaxUnpool "
        "<kernel_shape = [2, 11], strides = [2, 11]> (p, i)",
        "window's own cells",
    ),
    "NonMaxSuppression": (
        "b = Reshape (c, boxes3) k = ReduceMax <keepdims = 1> (b, k2) t = Transpose <perm = "
        "[0, 2, 1]> (k) n = NonMaxSuppression (b, t) i = Cast <to = 1> (n) m = ReduceMean "
        "<keepdims = 0> (i) map = Mul (c, m)",
        "number of boxes",
    ),
    "ReverseSequence": (
        "r = Reshape (c, rows) e = ReverseSequence <batch_axis = 0, time_axis = 1> (r, "
        "lengths) map = Reshape (e, grid)",
        "sequences of lengths",
    ),
}

ONE_IMAGE = {  # rows whose net takes a batch of one; all others take two
    *("Clip", "Conv", "ConvInteger", "QLinearConv", "DequantizeLinear", "QuantizeLinear"),
    *(f"{MICROSOFT}DequantizeLinear", f"{MICROSOFT}QuantizeLinear"),
    *(f"{MICROSOFT}QLinearLeakyRelu", f"{MICROSOFT}QLinearSigmoid"),
}
