"""Models whose graph is not plain: local functions, branches, fused ops, and types other than float32."""

from __future__ import annotations

import onnx
import pytest
from heads import assert_lifted, net

import surgery

FC = "float[5,72] w, float[5] b"

# ------------------------------------------------ functions


def test_local_functions_are_inlined() -> None:
    functions = """
    <domain: "mine", opset_import: ["": 17]>
    dense <alpha> (x, w, b) => (y) { h = Gemm <transB = 1, alpha: float = @alpha> (x, w, b) y = Relu (h) }
    <domain: "mine", opset_import: ["": 17, "mine": 1]>
    head (x, w, b) => (y) { f = Flatten (x) y = mine.dense <alpha = 0.5> (f, w, b) }
    """
    model = net(
        "scores = mine.head (map, w, b)",
        FC,
        opset=17,
        domains=', "mine": 1',
        functions=functions.replace("\n", " "),
    )
    assert_lifted(model)


# ------------------------------------------------ branches

THEN = "a = Flatten (map) h = Gemm <transB = 1> (a, w, b) y = Relu (h)"
ELSE = "a = Flatten (map) h = Gemm <transB = 1> (a, v, b) y = Neg (h)"
BRANCHES = (
    f"then_branch = yes () => (float[1,5] y) {{ {THEN} }}, else_branch = no () => (float[1,5] y) {{ {ELSE} }}"
)
BRANCH_WEIGHTS = f"{FC}, float[5,72] v"


@pytest.mark.parametrize("truth", [0, 1])
def test_a_constant_decides_an_if(truth: int) -> None:
    lines = (
        f"c = Constant <value = bool {{{truth}}}> () s = If <{BRANCHES}> (c) scores = Softmax <axis = 1> (s)"
    )
    done = assert_lifted(net(lines, BRANCH_WEIGHTS))
    assert not any(node.op_type == "If" for node in done.proto.graph.node)


def test_an_initializer_decides_an_if() -> None:
    assert_lifted(net(f"scores = If <{BRANCHES}> (c)", f"{BRANCH_WEIGHTS}, bool c = {{1}}"))


def test_the_shape_decides_an_if() -> None:
    """As torch exports a squeeze of a dim that may be 1."""
    lines = (
        "p = ReduceMean[2, 3] <keepdims = 1> (map) s = Shape (p) two = 2 n = Gather (s, two) one = 1 "
        "c = Equal (n, one) "
        "f = If <then_branch = yes () => (float[1,3,1] y) { i = Constant <value = int64[1] {2}> () y "
        "= Squeeze (p, i) }, "
        "else_branch = no () => (float[1,3,1,1] y) { y = Identity (p) }> (c) g = Flatten (f) scores "
        "= Gemm (g, w0, b)"
    )
    assert_lifted(net(lines, "float[3,5] w0, float[5] b"))


def test_an_if_in_a_branch() -> None:
    inner = (
        f"d = Constant <value = bool {{0}}> () y = If "
        f"<{BRANCHES.replace(' y', ' z').replace('y = ', 'z = ')}> (d)"
    )
    lines = (
        "c = Constant <value = bool {1}> () scores = If <"
        f"then_branch = outer () => (float[1,5] y) {{ {inner} }}, else_branch = no2 () => (float[1,5] "
        f"y) {{ y = Identity (k) }}> (c)"
    )
    assert_lifted(net(lines, f"{BRANCH_WEIGHTS}, float[1,5] k"))


def test_the_image_decides_an_if() -> None:
    lines = (
        f"m = GlobalMaxPool (map) n = ReduceMax <keepdims = 0> (m) z = 0.5 c = Greater (n, z) "
        f"scores = If <{BRANCHES}> (c)"
    )
    with pytest.raises(surgery.Refused, match=r"If 'scores'.*: the image decides which branch runs"):
        surgery.convert(net(lines, BRANCH_WEIGHTS))


# ------------------------------------------------ fused ops

FUSED = {
    "FusedGemm": (
        'f = Flatten (map) scores = com.microsoft.FusedGemm <transB = 1, activation = "Relu"> (f, w, b)',
        FC,
    ),
    "FusedGemm, LeakyRelu": (
        "f = Flatten (map) scores = com.microsoft.FusedGemm <transB = 1, alpha = 0.5, activation = "
        '"LeakyRelu", '
        "activation_alpha = 0.3> (f, w, b)",
        FC,
    ),
    "FusedConv": (
        'd = com.microsoft.FusedConv <activation = "Tanh", strides = [1, 2]> (map, k, kb) f = '
        "Flatten (d) scores = Gemm (f, u, b)",
        "float[4,3,2,2] k, float[4] kb, float[36,5] u, float[5] b",
    ),
    "FusedConv, Clip": (
        'd = com.microsoft.FusedConv <activation = "Clip", activation_params = [-0.2, 0.4]> (map, k) '
        "f = Flatten (d) "
        "scores = Gemm (f, u, b)",
        "float[4,3,2,2] k, float[60,5] u, float[5] b",
    ),
    "FusedConv, a sum": (
        'd = com.microsoft.FusedConv <activation = "Relu", kernel_shape = [1, 1]> (map, k, kb, map) '
        "f = Flatten (d) "
        "scores = Gemm (f, u, b)",
        "float[3,3,1,1] k, float[3] kb, float[72,5] u, float[5] b",
    ),
    "FusedConv in the head": (
        'p = GlobalAveragePool (map) d = com.microsoft.FusedConv <activation = "HardSigmoid", '
        "activation_params = [0.3, 0.4]> (p, k) "
        "scores = Flatten (d)",
        "float[5,3,1,1] k",
    ),
    "Gelu": ("f = Flatten (map) h = Gemm <transB = 1> (f, w, b) scores = com.microsoft.Gelu (h)", FC),
    "QuickGelu": (
        "f = Flatten (map) h = Gemm <transB = 1> (f, w, b) scores = com.microsoft.QuickGelu (h)",
        FC,
    ),
    "FastGelu": ("f = Flatten (map) h = Gemm <transB = 1> (f, w) scores = com.microsoft.FastGelu (h, b)", FC),
    "BiasGelu": ("f = Flatten (map) h = Gemm <transB = 1> (f, w) scores = com.microsoft.BiasGelu (h, b)", FC),
    "Gelu in the trunk": (
        "g = com.microsoft.Gelu (map) f = Flatten (g) scores = Gemm <transB = 1> (f, w, b)",
        FC,
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_ops_of_onnxruntime(name: str) -> None:
    lines, weights = FUSED[name]
    assert_lifted(net(lines, weights, domains=', "com.microsoft": 1'))


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_a_model_that_onnxruntime_has_optimized(level: str, tmp_path: pytest.TempPathFactory) -> None:
    import onnxruntime as ort

    model = net(
        "f = Flatten (map) h = Gemm <transB = 1> (f, w, b) r = Relu (h) scores = Gemm <transB = 1> (r, v, b)",
        FC + ", float[5,5] v",
    )
    options = ort.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    done = assert_lifted(onnx.load(f"{tmp_path}/optimized.onnx"))
    assert not any(node.op_type.startswith("Fused") for node in done.proto.graph.node)
