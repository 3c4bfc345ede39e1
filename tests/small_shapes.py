"""The shapes of well-known classifiers at small windows and with few channels, as ONNX text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import nets
import onnx

CLASSES = 5
HALF = "kernel_shape = [2, 2], strides = [2, 2]"
THREE = "kernel_shape = [3, 3], strides = [2, 2]"


class Net:
    """A net under construction; `channels` are those of the tensor written last."""

    def __init__(self, window: int = 64, channels: int = 3, opset: int = 17) -> None:
        self.window = window
        self.opset = opset
        self.channels = channels
        self.image = f"float[1,{channels},{window},{window}] image"
        self.lines: list[str] = []
        self.weights: list[str] = []

    def weight(self, *shape: int) -> str:
        """A seeded weight."""
        name = f"w{len(self.weights)}"
        self.weights.append(f"float{list(shape)} {name}")
        return name

    def ints(self, *values: int) -> str:
        """A constant of int64."""
        name = f"w{len(self.weights)}"
        self.weights.append(f"int64[{len(values)}] {name} = {{{', '.join(map(str, values))}}}")
        return name

    def op(self, op: str, *inputs: str) -> str:
        """Write `op` (with its attributes) over these inputs."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {op} ({', '.join(inputs)})")
        return name

    def conv(
        self, x: str, out: int, k: int, s: int = 1, p: int = -1, *, group: int = 1, act: str = "Relu"
    ) -> str:
        """Conv with half a kernel of padding, or `p`, then an activation ("" for none)."""
        pad = k // 2 if p < 0 else p
        weight, bias = self.weight(out, self.channels // group, k, k), self.weight(out)
        said = f"kernel_shape = [{k}, {k}], strides = [{s}, {s}], pads = {[pad] * 4}, group = {group}"
        self.channels = out
        made = self.op(f"Conv <{said}>", x, weight, bias)
        return self.op(act, made) if act else made

    def gemm(self, x: str, features: int, out: int) -> str:
        """A fully connected layer."""
        return self.op("Gemm <transB = 1>", x, self.weight(out, features), self.weight(out))

    def model(self, *outputs: str, batch: str = "") -> onnx.ModelProto:
        """The net with these outputs; `batch` names a batch that is free."""
        image = self.image.replace("[1,", f"[{batch},", 1) if batch else self.image
        given = ", ".join(f"float[{batch or 1}] {o}" for o in outputs)
        weights = f"<{', '.join(self.weights)}>" if self.weights else ""
        opened = f'<ir_version: 8, opset_import: ["": {self.opset}]>'
        text = "\n".join(self.lines)
        return nets.parse(f"{opened} net ({image}) => ({given}) {weights} {{ {text} }}")

    def pooled(self, x: str) -> onnx.ModelProto:
        """The net with a global average and one layer behind it."""
        pooled = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.model(self.gemm(pooled, self.channels, CLASSES))

    def flattened(self, x: str, side: int, hidden: int = 8) -> onnx.ModelProto:
        """The net with two layers behind its flattened map."""
        folded = self.gemm(self.op("Flatten", x), self.channels * side * side, hidden)
        return self.model(self.op("Softmax", self.gemm(self.op("Relu", folded), hidden, CLASSES)))


# ------------------------------------------------------------------ plain stacks


def alexnet() -> onnx.ModelProto:
    """AlexNet with its LRNs (Krizhevsky et al. 2012), window 95."""
    net = Net(95)
    x = net.op("LRN <size = 3>", net.conv("image", 4, 11, 4, 2))
    x = net.op(f"MaxPool <{THREE}>", x)
    x = net.op("LRN <size = 3>", net.conv(x, 6, 5, group=2))
    x = net.op(f"MaxPool <{THREE}>", x)
    x = net.conv(net.conv(x, 6, 3), 6, 3, group=2)
    return net.flattened(net.op(f"MaxPool <{THREE}>", x), 2)


def vgg() -> onnx.ModelProto:
    """VGG (Simonyan & Zisserman 2015), five stages, window 64."""
    net = Net()
    x = "image"
    for out, count in ((3, 1), (4, 2), (4, 2), (5, 2), (5, 1)):
        for _ in range(count):
            x = net.conv(x, out, 3)
        x = net.op(f"MaxPool <{HALF}>", x)
    return net.flattened(x, 2)


def onet() -> onnx.ModelProto:
    """MTCNN's O-Net (Zhang et al. 2016), its pools cut short: window 48."""
    net = Net(48)
    x = net.op(f"MaxPool <{THREE}, ceil_mode = 1>", net.conv("image", 4, 3, p=0))
    x = net.op(f"MaxPool <{THREE}, ceil_mode = 1>", net.conv(x, 4, 3, p=0))
    x = net.op(f"MaxPool <{HALF}, ceil_mode = 1>", net.conv(x, 4, 3, p=0))
    x = net.conv(x, 6, 2, p=0)
    features = net.op("Relu", net.gemm(net.op("Flatten", x), 6 * 9, 8))
    return net.model(net.op("Softmax", net.gemm(features, 8, 2)), net.gemm(features, 8, 4))


def same_pads() -> onnx.ModelProto:
    """Pads left to auto_pad, as TensorFlow exports them: window 45."""
    net = Net(45)
    x = "image"
    for out, k, s, mode in ((4, 3, 2, "UPPER"), (4, 4, 1, "LOWER"), (5, 5, 2, "UPPER"), (5, 2, 1, "UPPER")):
        said = f'auto_pad = "SAME_{mode}", kernel_shape = [{k}, {k}], strides = [{s}, {s}]'
        x = net.op(f"Conv <{said}>", x, net.weight(out, net.channels, k, k))
        net.channels = out
        x = net.op("Relu", x)
    for kind in ("MaxPool", "AveragePool"):
        x = net.op(f'{kind} <auto_pad = "SAME_UPPER", {THREE}>', x)
    return net.flattened(x, 3)


# ------------------------------------------------------------------ shortcuts and branches


def resnet(block: Callable[[Net, str, int, int], str], grow: int) -> onnx.ModelProto:
    """ResNet (He et al. 2016): three stages, window 64."""
    net = Net()
    x = net.op(f"MaxPool <{THREE}, pads = [1, 1, 1, 1]>", net.conv("image", 4, 7, 2))
    for stage, count in enumerate((2, 1, 2)):
        for i in range(count):
            x = _shortcut(net, x, block, (3 + stage) * grow, 2 if stage and not i else 1)
    return net.pooled(x)


def _shortcut(net: Net, x: str, block: Callable[[Net, str, int, int], str], out: int, stride: int) -> str:
    before = net.channels
    inner = block(net, x, out, stride)
    if stride > 1 or before != out:
        net.channels = before
        x = net.conv(x, out, 1, stride, act="")
    return net.op("Relu", net.op("Add", inner, x))


def basic(net: Net, x: str, out: int, stride: int) -> str:
    """Two 3x3 convolutions."""
    return net.conv(net.conv(x, out, 3, stride), out, 3, act="")


def bottleneck(net: Net, x: str, out: int, stride: int) -> str:
    """A 3x3 convolution, with the stride, between two of 1x1."""
    x = net.conv(net.conv(x, 2, 1), 2, 3, stride)
    return net.conv(x, out, 1, act="")


def densenet() -> onnx.ModelProto:
    """DenseNet (Huang et al. 2017): blocks of Concats, transitions by average pools, window 64."""
    net = Net()
    x = net.op(f"MaxPool <{THREE}, pads = [1, 1, 1, 1]>", net.conv("image", 4, 5, 2))
    for block in range(2):
        for _ in range(3):
            before = net.channels
            normed = net.op("BatchNormalization", x, *(net.weight(before) for _ in range(4)))
            fresh = net.conv(net.conv(net.op("Relu", normed), 3, 1), 2, 3, act="")
            x = net.op("Concat <axis = 1>", x, fresh)
            net.channels = before + 2
        if not block:
            x = net.op(f"AveragePool <{HALF}>", net.conv(x, 5, 1))
    return net.pooled(x)


def inception() -> onnx.ModelProto:
    """Inception modules behind a stem without padding (Szegedy et al. 2016), window 75."""
    net = Net(75)
    x = net.conv(net.conv("image", 3, 3, 2, 0), 4, 3, 1, 0)
    x = net.op(f"MaxPool <{THREE}>", net.conv(x, 4, 3))
    x = _module(net, x)
    x = _reduction(net, _module(net, x))
    return net.pooled(_module(net, x))


def _module(net: Net, x: str) -> str:
    c = net.channels
    ways = [net.conv(x, 2, 1)]
    net.channels = c
    ways.append(net.conv(net.conv(x, 2, 1), 2, 5))
    net.channels = c
    ways.append(net.conv(net.conv(net.conv(x, 2, 1), 2, 3), 2, 3))
    net.channels = c
    pooled = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 0"
    ways.append(net.conv(net.op(f"AveragePool <{pooled}>", x), 2, 1))
    net.channels = 8
    return net.op("Concat <axis = 1>", *ways)


def _reduction(net: Net, x: str) -> str:
    c = net.channels
    ways = [net.conv(x, 2, 3, 2, 0)]
    net.channels = c
    ways.append(net.conv(net.conv(net.conv(x, 2, 1), 2, 3), 2, 3, 2, 0))
    ways.append(net.op(f"MaxPool <{THREE}>", x))
    net.channels = c + 4
    return net.op("Concat <axis = 1>", *ways)


# ------------------------------------------------------------------ light nets


def mobilenet_se() -> onnx.ModelProto:
    """Inverted residuals with squeeze-excite gates (Howard et al. 2019), window 64."""
    net = Net()
    x = net.conv("image", 3, 3, 2, act="HardSwish")
    for out, k, s, gated in (
        (3, 3, 1, False),
        (4, 3, 2, False),
        (4, 5, 1, True),
        (5, 5, 2, True),
        (5, 5, 1, True),
    ):
        before, channels = x, net.channels
        x = net.conv(net.conv(x, 6, 1), 6, k, s, group=6)
        x = _gated(net, x) if gated else x
        x = net.conv(x, out, 1, act="")
        if s == 1 and channels == out:
            x = net.op("Add", before, x)
    return net.pooled(net.conv(x, 7, 1, act="HardSwish"))


def _gated(net: Net, x: str) -> str:
    channels = net.channels
    gate = net.conv(net.op("GlobalAveragePool", x), 2, 1)
    return net.op("Mul", x, net.conv(gate, channels, 1, act="HardSigmoid"))


def shufflenet() -> onnx.ModelProto:
    """Channels split, joined and shuffled (Ma et al. 2018), window 64."""
    net = Net()
    x = net.op(f"MaxPool <{THREE}, pads = [1, 1, 1, 1]>", net.conv("image", 4, 3, 2))
    for stage, side in ((1, 16), (2, 8)):
        if stage == 2:
            left = _depthwise(net, x, 2)
            net.channels = 4
            x = _shuffled(net, net.op("Concat <axis = 1>", left, _depthwise(net, x, 2)), side)
            net.channels = 4
        net.channels = 2
        halves = (net.ints(0), net.ints(2), net.ints(4), net.ints(1))
        keep = net.op("Slice", x, halves[0], halves[1], halves[3])
        move = net.op("Slice", x, halves[1], halves[2], halves[3])
        x = _shuffled(net, net.op("Concat <axis = 1>", keep, _depthwise(net, move, 1)), side)
        net.channels = 4
    return net.pooled(net.conv(x, 6, 1))


def _depthwise(net: Net, x: str, stride: int) -> str:
    c = net.channels
    return net.conv(net.conv(net.conv(x, 2, 1), 2, 3, stride, group=2, act=""), 2, 1) if c else x


def _shuffled(net: Net, x: str, side: int) -> str:
    apart = net.op("Reshape", x, net.ints(1, 2, 2, side, side))
    turned = net.op("Transpose <perm = [0, 2, 1, 3, 4]>", apart)
    return net.op("Reshape", turned, net.ints(1, 4, side, side))


def convnext() -> onnx.ModelProto:
    """ConvNeXt (Liu et al. 2022): depthwise 7x7, norms and layers over channels that lie last, window 64."""
    net = Net()
    x = _norm(net, net.conv("image", 4, 4, 4, 0, act=""))
    for stage in range(2):
        if stage:
            x = net.conv(_norm(net, x), 5, 2, 2, 0, act="")
        for _ in range(2):
            x = net.op("Add", x, _next_block(net, x))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    c = net.channels
    normed = net.op("LayerNormalization <axis = -1>", pooled, net.weight(c), net.weight(c))
    return net.model(net.gemm(normed, c, CLASSES))


def _norm(net: Net, x: str) -> str:
    last = net.op("Transpose <perm = [0, 2, 3, 1]>", x)
    c = net.channels
    normed = net.op("LayerNormalization <axis = -1>", last, net.weight(c), net.weight(c))
    return net.op("Transpose <perm = [0, 3, 1, 2]>", normed)


def _next_block(net: Net, x: str) -> str:
    c = net.channels
    x = net.op("Transpose <perm = [0, 2, 3, 1]>", net.conv(x, c, 7, group=c, act=""))
    x = net.op("LayerNormalization <axis = -1>", x, net.weight(c), net.weight(c))
    x = net.op("Add", net.op("MatMul", x, net.weight(c, 2 * c)), net.weight(2 * c))
    x = net.op("Mul", x, net.op("Sigmoid", x))
    x = net.op("Mul", net.op("Add", net.op("MatMul", x, net.weight(2 * c, c)), net.weight(c)), net.weight(c))
    return net.op("Transpose <perm = [0, 3, 1, 2]>", x)


# ------------------------------------------------------------------ whole windows


def normed(op: str) -> onnx.ModelProto:
    """A padded stack with a norm over space, as GroupNorm is exported, or InstanceNorm: window 32."""
    net = Net(32)
    x = net.conv(net.conv("image", 4, 3), 4, 3, 2)
    if op == "group":
        x = net.op("Reshape", x, net.ints(0, 2, -1))
        x = net.op("InstanceNormalization", x, net.weight(2), net.weight(2))
        x = net.op("Mul", net.op("Reshape", x, net.ints(1, 4, 16, 16)), net.weight(1, 4, 1, 1))
    else:
        x = net.op("InstanceNormalization", x, net.weight(4), net.weight(4))
    return net.pooled(net.conv(net.op("Relu", x), 4, 3, 2))


def vit(batch: str = "", *, heads: int = 2, width: int = 8, side: int = 4) -> onnx.ModelProto:
    """A vision transformer (Dosovitskiy et al. 2021): patches of 8, window 32, one block.

    With `batch` its batch is free, and what depends on it is computed from the image's shape; else every
    shape is written out for a batch of 1.
    """
    net = Net(8 * side)
    net.channels = 3
    x = net.conv("image", width, 8, 8, 0, act="")
    tokens = side * side + 1
    free = batch and net.op("Slice", net.op("Shape", "image"), net.ints(0), net.ints(1))
    x = net.op("Transpose <perm = [0, 2, 1]>", net.op("Reshape", x, _shape(net, free, width, side * side)))
    token = net.weight(1, 1, width)
    if free:
        token = net.op("Expand", token, _shape(net, free, 1, width))
    x = net.op("Add", net.op("Concat <axis = 1>", token, x), net.weight(1, tokens, width))
    x = net.op("Add", x, _attention(net, _layer_norm(net, x, width), free, tokens, width, heads))
    h = net.op("MatMul", _layer_norm(net, x, width), net.weight(width, 2 * width))
    x = net.op("Add", x, net.op("MatMul", net.op("Relu", h), net.weight(2 * width, width)))
    first = net.op("Gather <axis = 1>", _layer_norm(net, x, width), _scalar(net))
    return net.model(net.gemm(first, width, CLASSES), batch=batch)


def _shape(net: Net, free: str, *dims: int) -> str:
    return net.op("Concat <axis = 0>", free, net.ints(*dims)) if free else net.ints(1, *dims)


def _scalar(net: Net) -> str:
    return net.op("Squeeze", net.ints(0))


def _layer_norm(net: Net, x: str, width: int) -> str:
    return net.op("LayerNormalization <axis = -1>", x, net.weight(width), net.weight(width))


def _attention(net: Net, x: str, free: str, tokens: int, width: int, heads: int) -> str:
    def split(order: Sequence[int]) -> str:
        made = net.op("MatMul", x, net.weight(width, width))
        apart = net.op("Reshape", made, _shape(net, free, tokens, heads, width // heads))
        return net.op(f"Transpose <perm = {list(order)}>", apart)

    queries, keys, values = split((0, 2, 1, 3)), split((0, 2, 3, 1)), split((0, 2, 1, 3))
    weights = net.op("Softmax <axis = -1>", net.op("MatMul", queries, keys))
    mixed = net.op("Transpose <perm = [0, 2, 1, 3]>", net.op("MatMul", weights, values))
    return net.op(
        "MatMul", net.op("Reshape", mixed, _shape(net, free, tokens, width)), net.weight(width, width)
    )


SHAPES: dict[str, Callable[[], Any]] = {
    "alexnet": alexnet,
    "vgg": vgg,
    "onet": onet,
    "same_pads": same_pads,
    "resnet18": lambda: resnet(basic, 1),
    "resnet50": lambda: resnet(bottleneck, 2),
    "densenet": densenet,
    "inception": inception,
    "mobilenet_se": mobilenet_se,
    "shufflenet": shufflenet,
    "convnext": convnext,
    "group_norm": lambda: normed("group"),
    "instance_norm": lambda: normed("instance"),
    "vit": vit,
    "vit_free_batch": lambda: vit("N"),
    "rnet": lambda: onnx.load(nets.FIXTURES / "rnet24.onnx"),
}
