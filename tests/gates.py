"""Nets whose trunk takes the whole image: gates in every spelling, and ops that mix positions."""

from __future__ import annotations

import onnx
from trunks import GAP, named, net

DOWN = "c = Conv <strides = [2, 2]> (image, w1) "  # [1, 4, 8, 11]
THEN = " map = Conv (m, w44)"  # behind the gate, so that it is no part of the head

DECLARED = (
    "float[4,2,3,3] w1, float[4,4,1,1] w44, float[4,4,3,3] w3, float[2,4,1,1] wa, float[4,2,1,1] wb, "
    "float[2,4] ga, float[4,2] gb, float[2] b2, float[4] b4, float[4,2] ma, float[2,4] mb, "
    "float[1,2,7,7] ws, "
    "float[1,4,1,1] w14, float[4,8,1,1] w48, float[4] n4, float[4] o4, float[2] n2, float[2] o2, "
    "float[4,1,1] v4, float[88,88] m88, float[4,1,8,11] wd, uint8[4,4,1,1] wi, int8[4,5] wm, "
    "float wq = {0.01}, "
    "int64[2] vector = {1, 4}, int64[3] row = {1, 4, 88}, int64[4] grid = {1, 4, 8, 11}, "
    "int64[4] back = {1, 4, 1, 1}, int64[3] groups = {1, 2, -1}, int64[3] groups0 = {0, 2, -1}, "
    "int64[4] heads = {1, 2, 2, 88}, int64[4] rows = {1, 1, 4, 88}, int64[3] one = {1, 1, 88}, "
    "int64[4] times = {1, 1, 8, 11}, int64[5] grouped = {1, 2, 2, 8, 11}, int64[5] again = {1, 1, 2, 8, 11}, "
    "int64[3] tokens = {1, 88, 4}, int64[6] last = {0, 0, 0, 0, 0, 1}, float unit = {1}, "
    "int64[1] i0 = {0}, int64[1] i2 = {2}, int64[1] i4 = {4}, int64[1] i5 = {5}"
)


def model_of(
    lines: str, opset: int = 17, head: str = GAP, features: int = 4, out: str = ""
) -> onnx.ModelProto:
    """A net of these lines, with the weights and constants that they name."""
    return net(lines, named(lines, DECLARED), features, opset=opset, head=head, out=out)


SQUEEZED = "h = Conv (g, wa) r = Relu (h) q = Conv (r, wb) s = Sigmoid (q) m = Mul (c, s)"
DENSE = "h = Gemm <transB = 1> (f, ga, b2) r = Relu (h) q = Gemm <transB = 1> (r, gb, b4) s = Sigmoid (q)"

GATES: dict[str, tuple[str, str, str]] = {  # lines, what took every position, where that returns
    "squeeze-excite": (f"g = GlobalAveragePool (c) {SQUEEZED}", "GlobalAveragePool 'g'", "Mul 'm'"),
    "by a reduction": (f"g = ReduceMean[2, 3] <keepdims = 1> (c) {SQUEEZED}", "ReduceMean 'g'", "Mul 'm'"),
    "by a pool of the whole map": (
        f"g = AveragePool <kernel_shape = [8, 11]> (c) {SQUEEZED}",
        "AveragePool 'g'",
        "Mul 'm'",
    ),
    "by the largest of the whole map": (
        f"g = MaxPool <kernel_shape = [8, 11]> (c) {SQUEEZED}",
        "MaxPool 'g'",
        "Mul 'm'",
    ),
    "by the largest of what a pool leaves": (
        """a = AveragePool <kernel_shape = [8, 10]> (c) g = MaxPool <kernel_shape = [1, 2]> (a)
           s = Sigmoid (g) m = Mul (c, s)""",
        "MaxPool 'g'",
        "Mul 'm'",
    ),
    "by a norm of the whole map": (
        f"g = LpPool <kernel_shape = [8, 11], p = 3> (c) {SQUEEZED}",
        "LpPool 'g'",
        "Mul 'm'",
    ),
    "by rows, then columns": (
        "h = ReduceMean[3] (c) r = Relu (h) g = ReduceMax[2] (r) s = Sigmoid (g) m = Mul (c, s)",
        "ReduceMean 'h'",
        "Mul 'm'",
    ),
    "by rows, then columns, without their dims": (
        """h = ReduceMean[2] <keepdims = 0> (c) g = ReduceMean[2] <keepdims = 0> (h) u = Unsqueeze[2, 3] (g)
           m = Mul (c, u)""",
        "ReduceMean 'h'",
        "Mul 'm'",
    ),
    "by a row of positions": (
        """t = Reshape (c, row) f = ReduceMean[2] <keepdims = 0> (t) h = MatMul (f, ma) r = Relu (h)
           q = MatMul (r, mb) s = Sigmoid (q) u = Reshape (s, back) m = Mul (c, u)""",
        "ReduceMean 'f'",
        "Mul 'm'",
    ),
    "with Gemm, flattened and back": (
        f"g = GlobalAveragePool (c) f = Flatten (g) {DENSE} u = Reshape (s, back) m = Mul (u, c)",
        "GlobalAveragePool 'g'",
        "Mul 'm'",
    ),
    "with views and an Expand to the window": (
        f"""g = GlobalAveragePool (c) f = Reshape (g, vector) {DENSE} u = Reshape (s, back)
            e = Expand (u, grid) m = Mul (c, e)""",
        "GlobalAveragePool 'g'",
        "Mul 'm'",
    ),
    "with an Expand to a shape": (
        "g = GlobalAveragePool (c) s = Sigmoid (g) sh = Shape (c) e = Expand (s, sh) m = Mul (c, e)",
        "GlobalAveragePool 'g'",
        "Mul 'm'",
    ),
    "with a Tile": (
        "g = GlobalAveragePool (c) s = Sigmoid (g) e = Tile (s, times) r = Relu (e) m = Mul (c, r)",
        "GlobalAveragePool 'g'",
        "Mul 'm'",
    ),
    "of groups of channels, laid out and merged (EvoNorm)": (
        """k = Reshape (c, grouped) d = Mul (k, k) v = ReduceMean[2, 3, 4] (d) s = Sqrt (v)
           e = Expand (s, grouped) x = Reshape (e, grid) m = Div (c, x)""",
        "ReduceMean 'v'",
        "Div 'm'",
    ),
    "of groups of channels, met group by group": (
        """k = Reshape (c, grouped) v = ReduceMax[2, 3, 4] (k) e = Expand (v, grouped) y = Sub (k, e)
           m = Reshape (y, grid)""",
        "ReduceMax 'v'",
        "Sub 'y'",
    ),
    "of groups of channels, repeated and merged": (
        """k = Reshape (c, grouped) v = ReduceMean[2, 3, 4] (k) e = Tile (v, again) r = Tanh (e)
           x = Reshape (r, grid) m = Mul (c, x)""",
        "ReduceMean 'v'",
        "Mul 'm'",
    ),
    "of one value for all channels": (
        """g = GlobalAveragePool (c) h = ReduceMean[1] <keepdims = 1> (g) s = Sigmoid (h) e = Expand (s, grid)
           k = Conv (c, w44) m = Mul (k, e)""",
        "GlobalAveragePool 'g'",
        "Mul 'm'",
    ),
    "with MatMul and Unsqueeze": (
        """f = ReduceMean[2, 3] <keepdims = 0> (c) h = MatMul (f, ma) r = Relu (h) q = MatMul (r, mb)
           s = HardSigmoid (q) u = Unsqueeze[2, 3] (s) m = Mul (c, u)""",
        "ReduceMean 'f'",
        "Mul 'm'",
    ),
    "of channels, by two pools (CBAM)": (
        """g = GlobalAveragePool (c) x = ReduceMax[2, 3] <keepdims = 1> (c) a = Conv (g, wa) b = Conv (x, wa)
           a1 = Relu (a) b1 = Relu (b) a2 = Conv (a1, wb) b2 = Conv (b1, wb) z = Add (a2, b2)
           s = Sigmoid (z) m = Mul (c, s)""",
        "GlobalAveragePool 'g'",
        "Mul 'm'",
    ),
    "used in two places": (
        "g = GlobalAveragePool (c) s = Sigmoid (g) a = Mul (c, s) b = Conv (a, w44) m = Add (b, s)",
        "GlobalAveragePool 'g'",
        "Mul 'a'",
    ),
    "nested": (
        """g = GlobalAveragePool (c) s = Sigmoid (g) a = Mul (c, s) h = GlobalMaxPool (a) t = Add (h, g)
           m = Mul (a, t)""",
        "GlobalAveragePool 'g'",
        "Mul 'a'",
    ),
    "laid out beside the map (ASPP)": (
        """g = GlobalAveragePool (c) p = Conv (g, w44) e = Expand (p, grid) k = Concat <axis = 1> (c, e)
           m = Conv (k, w48)""",
        "GlobalAveragePool 'g'",
        "Concat 'k'",
    ),
    "resized over the map (ASPP)": (
        """g = GlobalAveragePool (c) p = Conv (g, w44) e = Resize <mode = "linear"> (p, , , grid)
           k = Concat <axis = 1> (c, e) m = Conv (k, w48)""",
        "GlobalAveragePool 'g'",
        "Concat 'k'",
    ),
    "mean and deviation": (
        """u = ReduceMean[2, 3] (c) d = Sub (c, u) d2 = Mul (d, d) v = ReduceMean[2, 3] (d2) e = Sqrt (v)
           m = Div (d, e)""",
        "ReduceMean 'u'",
        "Sub 'd'",
    ),
    "of channels, by their products": (
        """t = Reshape (c, row) u = Transpose <perm = [0, 2, 1]> (t) e = MatMul (t, u) a = Tanh (e)
           y = MatMul (a, t) m = Reshape (y, grid)""",
        "MatMul 'e'",
        "MatMul 'y'",
    ),
    "of keys and values, with their sum (EfficientViT)": (
        """t = Reshape (c, row) u = Transpose <perm = [0, 2, 1]> (t) q = Softplus (u) k = Softplus (t)
           p = Pad (u, last, unit) e = MatMul (k, p) y = MatMul (q, e) a = Slice (y, i0, i4, i2)
           b = Slice (y, i4, i5, i2) d = Div (a, b) z = Transpose <perm = [0, 2, 1]> (d)
           m = Reshape (z, grid)""",
        "MatMul 'e'",
        "MatMul 'y'",
    ),
}

ATTENTION = r"MatMul 'f': it multiplies every position with every other \(attention\)"
MIXING: dict[str, tuple[str, str]] = {  # lines, the node with its reason
    "InstanceNormalization": (
        "m = InstanceNormalization (c, n4, o4)",
        "InstanceNormalization 'm': it takes its statistics from the whole image",
    ),
    "GroupNorm, spelled": (
        """t = Reshape (c, groups) i = InstanceNormalization (t, n2, o2) u = Reshape (i, grid)
           x = Mul (u, v4) m = Add (x, v4)""",
        "InstanceNormalization 'i': it takes its statistics from the whole image",
    ),
    "GroupNorm, back to a shape": (
        "t = Reshape (c, groups0) i = InstanceNormalization (t, n2, o2) sh = Shape (c) m = Reshape (i, sh)",
        "InstanceNormalization 'i': it takes its statistics from the whole image",
    ),
    "statistics by name": (
        "m = MeanVarianceNormalization <axes = [2, 3]> (c)",
        "MeanVarianceNormalization 'm': it takes its statistics from the whole image",
    ),
    "attention (non-local)": (
        """k = Conv (c, w44) t = Reshape (k, row) q = Transpose <perm = [0, 2, 1]> (t) p = Reshape (c, row)
           f = MatMul (q, p) a = Softmax <axis = -1> (f) v = Transpose <perm = [0, 2, 1]> (p)
           y = MatMul (a, v) z = Transpose <perm = [0, 2, 1]> (y) x = Reshape (z, grid) m = Add (x, c)""",
        ATTENTION,
    ),
    "attention, keys last (SAGAN)": (
        """k = Conv (c, w44) t = Reshape (k, row) q = Transpose <perm = [0, 2, 1]> (t) p = Reshape (c, row)
           f = MatMul (q, p) a = Softmax <axis = -1> (f) b = Transpose <perm = [0, 2, 1]> (a)
           y = MatMul (p, b) x = Reshape (y, grid) m = Add (x, c)""",
        ATTENTION,
    ),
    "attention of two heads": (
        """k = Reshape (c, heads) q = Transpose <perm = [0, 1, 3, 2]> (k) f = MatMul (q, k)
           a = Softmax <axis = -1> (f) y = MatMul (a, q) z = Transpose <perm = [0, 1, 3, 2]> (y)
           x = Reshape (z, grid) m = Add (x, c)""",
        ATTENTION,
    ),
    "attention of unit vectors": (
        """k = Conv (c, w44) t = Reshape (k, row) q = Transpose <perm = [0, 2, 1]> (t) n = ReduceL2[2] (q)
           e = Expand (n, tokens) u = Div (q, e) p = Reshape (c, row) f = MatMul (u, p)
           a = Softmax <axis = -1> (f) v = Transpose <perm = [0, 2, 1]> (p) y = MatMul (a, v)
           z = Transpose <perm = [0, 2, 1]> (y) x = Reshape (z, grid) m = Add (x, c)""",
        ATTENTION,
    ),
    "attention for all alike (GCNet)": (
        """t = Reshape (c, rows) k = Conv (c, w14) p = Reshape (k, one) a = Softmax <axis = 2> (p)
           b = Unsqueeze[3] (a) y = MatMul (t, b) z = Reshape (y, back) u = Conv (z, w44) m = Add (c, u)""",
        "Softmax 'a': it normalises over all positions",
    ),
}

HELD = {  # gates that still hold, or fix, positions of the window: the head's, window by window
    "a Conv over the whole map": "g = Conv <group = 4> (c, wd) s = Sigmoid (g) m = Mul (c, s)",
    "a product over positions": """t = Reshape (c, row) u = MatMul (t, m88)
        v = ReduceMean[2] <keepdims = 1> (u) s = Reshape (v, back) m = Mul (c, s)""",
    "means of rows": "g = ReduceMean[3] <keepdims = 1> (c) s = Sigmoid (g) m = Mul (c, s)",
}
FIXED: dict[str, tuple[str, str]] = {  # lines, what is said even where it is allowed
    "a batch given up": (
        "g = GlobalAveragePool (c) s = Squeeze[0, 2, 3] (g) u = Unsqueeze[0, 2, 3] (s) m = Mul (c, u)",
        r"cannot free Squeeze 's': it gives up the batch as a dim of its own",
    ),
}
