"""The shapes of well-known classifiers with seeded random weights, for benchmarks and heavy tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Net:
    """Builds a net layer by layer; `x` is the last tensor, `channels` how many it has."""

    def __init__(self, window: int, seed: int = 0, width: float = 1.0) -> None:
        self.window = window
        self.width = width
        self.x = "input"
        self.channels = 3
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def scaled(self, channels: int) -> int:
        """So many channels, at this net's width."""
        return max(1, round(channels * self.width))

    def weight(self, *shape: int, fan: int = 0, bias: float = 0.0) -> str:
        """A seeded weight, He-scaled where `fan` is given."""
        scale = np.sqrt(2 / fan) if fan else 0.05
        value = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(scale) + np.float32(bias)
        return self._constant(value)

    def ints(self, *values: int) -> str:
        """A constant vector of int64."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant float without dims."""
        return self._constant(np.array(value, np.float32))

    def _constant(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """A node; returns its output and makes it the last tensor."""
        self.x = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [self.x], f"n{len(self.nodes)}", **attrs))
        return self.x

    def conv(self, out: int, k: int, s: int = 1, p: int = 0, group: int = 1, *, relu: bool = True) -> str:
        """Conv with bias, then ReLU."""
        inside = self.channels // group
        weight = self.weight(out, inside, k, k, fan=inside * k * k)
        pads = [p] * 4
        self.op(
            "Conv",
            self.x,
            weight,
            self.weight(out),
            kernel_shape=[k, k],
            strides=[s, s],
            pads=pads,
            group=group,
        )
        self.channels = out
        return self.op("Relu", self.x) if relu else self.x

    def pool(self, kind: str, k: int, s: int, p: int = 0, **attrs: Any) -> str:
        """MaxPool or AveragePool."""
        return self.op(kind, self.x, kernel_shape=[k, k], strides=[s, s], pads=[p] * 4, **attrs)

    def gemm(self, features: int, out: int) -> str:
        """A fully connected layer."""
        return self.op("Gemm", self.x, self.weight(out, features, fan=features), self.weight(out), transB=1)

    def model(self) -> onnx.ModelProto:
        """The net as a model with a free batch."""
        value = helper.make_tensor_value_info
        image = value("input", TensorProto.FLOAT, ["N", 3, self.window, self.window])
        graph = helper.make_graph(
            self.nodes, "net", [image], [value(self.x, TensorProto.FLOAT, None)], self.weights
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def alexnet(pads: bool = True, width: float = 1.0) -> onnx.ModelProto:
    """AlexNet of one column (Krizhevsky 2014): window 224, stride 32."""
    net = Net(224, width=width)
    p = int(pads)
    for out, k, s, pad, pooled in (
        (64, 11, 4, 2 * p, 1),
        (192, 5, 1, 2 * p, 1),
        (384, 3, 1, p, 0),
        (256, 3, 1, p, 0),
        (256, 3, 1, p, 1),
    ):
        net.conv(net.scaled(out), k, s, pad)
        if pooled:
            net.pool("MaxPool", 3, 2)
    side = 6 if pads else 2
    return _fully_connected(net, side, (4096, 4096))


def vgg16(pads: bool = True, width: float = 1.0) -> onnx.ModelProto:
    """VGG-16, configuration D (Simonyan & Zisserman 2015): window 224, stride 32."""
    net = Net(224, width=width)
    for out, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            net.conv(net.scaled(out), 3, 1, int(pads))
        net.pool("MaxPool", 2, 2)
    side = 7 if pads else 1
    return _fully_connected(net, side, (4096, 4096))


def _fully_connected(net: Net, side: int, hidden: Sequence[int]) -> onnx.ModelProto:
    features = net.channels * side * side
    net.op("Flatten", net.x)
    for out in hidden:
        net.gemm(features, net.scaled(out))
        net.op("Relu", net.x)
        features = net.scaled(out)
    net.gemm(features, 1000)
    net.op("Softmax", net.x, axis=1)
    return net.model()


def resnet18(width: float = 1.0) -> onnx.ModelProto:
    """ResNet-18 (He et al. 2016): window 224, stride 32."""
    return _resnet((2, 2, 2, 2), _basic, 1, width)


def resnet50(width: float = 1.0) -> onnx.ModelProto:
    """ResNet-50, the stride in the 3x3: window 224, stride 32."""
    return _resnet((3, 4, 6, 3), _bottleneck, 4, width)


def _resnet(
    counts: Sequence[int], block: Callable[[Net, int, int], None], grow: int, width: float
) -> onnx.ModelProto:
    net = Net(224, width=width)
    net.conv(net.scaled(64), 7, 2, 3)
    net.pool("MaxPool", 3, 2, 1)
    for stage, count in enumerate(counts):
        for i in range(count):
            block(net, net.scaled(64 * 2**stage), 2 if stage and not i else 1)
    return _pooled(net)


def _pooled(net: Net) -> onnx.ModelProto:
    net.op("GlobalAveragePool", net.x)
    net.op("Flatten", net.x)
    net.gemm(net.channels, 1000)
    return net.model()


def _join(net: Net, before: str, channels: int, after: str, stride: int) -> None:
    out = net.channels
    if stride != 1 or channels != out:
        net.x, net.channels = before, channels
        before = net.conv(out, 1, stride, relu=False)
    net.op("Add", after, before)
    net.op("Relu", net.x)


def _basic(net: Net, out: int, stride: int) -> None:
    before, channels = net.x, net.channels
    net.conv(out, 3, stride, 1)
    _join(net, before, channels, net.conv(out, 3, 1, 1, relu=False), stride)


def _bottleneck(net: Net, out: int, stride: int) -> None:
    before, channels = net.x, net.channels
    net.conv(out, 1)
    net.conv(out, 3, stride, 1)
    _join(net, before, channels, net.conv(4 * out, 1, relu=False), stride)


def mobilenet_se(width: float = 1.0) -> onnx.ModelProto:
    """Inverted residuals with squeeze-excite gates, as in MobileNetV3: window 224, stride 32."""
    net = Net(224, width=width)
    net.conv(net.scaled(16), 3, 2, 1)
    for out, grown, k, s in (
        (16, 16, 3, 2),
        (24, 72, 3, 2),
        (24, 88, 3, 1),
        (40, 96, 5, 2),
        (40, 240, 5, 1),
        (96, 288, 5, 2),
    ):
        before, channels = net.x, net.channels
        net.conv(net.scaled(grown), 1)
        net.conv(net.channels, k, s, k // 2, group=net.channels)
        _gate(net)
        after = net.conv(net.scaled(out), 1, relu=False)
        if s == 1 and channels == net.channels:
            net.op("Add", before, after)
    net.conv(net.scaled(576), 1)
    return _pooled(net)


def _gate(net: Net) -> None:
    x, channels = net.x, net.channels
    net.op("GlobalAveragePool", x)
    net.conv(max(1, channels // 4), 1)
    net.conv(channels, 1, relu=False)
    net.op("HardSigmoid", net.x)
    net.op("Mul", x, net.x)


def vit_tiny(width: float = 1.0) -> onnx.ModelProto:
    """A vision transformer of 12 blocks, with a class token (Dosovitskiy et al. 2021): window 224."""
    net, heads, tokens = Net(224, width=width), 3, 197
    size = heads * net.scaled(64)
    net.conv(size, 16, 16, relu=False)
    net.op("Reshape", net.x, net.ints(0, size, tokens - 1))
    net.op("Transpose", net.x, perm=[0, 2, 1])
    net.op("Pad", net.x, net.ints(0, 1, 0, 0, 0, 0))  # the class token itself is a part of its position
    net.op("Add", net.x, net.weight(1, tokens, size))
    for _ in range(12):
        before = net.x
        net.op("Add", before, _attention(net, size, heads))
        before = net.x
        net.op("Add", before, _perceptron(net, size))
    _normed(net, size)
    net.op("Gather", net.x, net.ints(0), axis=1)
    net.op("Flatten", net.x)
    net.gemm(size, 1000)
    return net.model()


def _normed(net: Net, size: int) -> None:
    net.op("LayerNormalization", net.x, net.weight(size, bias=1.0), net.weight(size))


def _linear(net: Net, before: int, after: int) -> str:
    net.op("MatMul", net.x, net.weight(before, after, fan=before))
    return net.op("Add", net.x, net.weight(after))


def _attention(net: Net, size: int, heads: int) -> str:
    _normed(net, size)
    x = net.x
    sides = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        net.x = x
        _linear(net, size, size)
        net.op("Reshape", net.x, net.ints(0, 0, heads, size // heads))
        sides.append(net.op("Transpose", net.x, perm=perm))
    net.op("MatMul", sides[0], sides[1])
    net.op("Mul", net.x, net.scalar((size // heads) ** -0.5))
    net.op("Softmax", net.x, axis=-1)
    net.op("MatMul", net.x, sides[2])
    net.op("Transpose", net.x, perm=[0, 2, 1, 3])
    net.op("Reshape", net.x, net.ints(0, 0, size))
    return _linear(net, size, size)


def _perceptron(net: Net, size: int) -> str:
    _normed(net, size)
    x = _linear(net, size, 4 * size)
    net.op("Erf", net.op("Mul", x, net.scalar(0.5**0.5)))  # GELU, as it is written before opset 20
    net.op("Add", net.x, net.scalar(1.0))
    net.op("Mul", net.op("Mul", x, net.x), net.scalar(0.5))
    return _linear(net, 4 * size, size)


SHAPES: dict[str, Callable[[], onnx.ModelProto]] = {
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_se": mobilenet_se,
    "vit_tiny": vit_tiny,
}
