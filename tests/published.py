"""Architectures of the literature, with as few channels as one likes: geometry does not depend on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import nets
import onnx


@dataclass
class Writer:
    """Writes a net as ONNX text, line by line; `last` is the tensor written last."""

    size: tuple[int, int]
    last: str = "image"
    channels: int = 3
    lines: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)

    def op(self, op: str, *inputs: str, **attrs: object) -> str:
        """Any op over `last` and more inputs."""
        name = f"t{len(self.lines)}"
        settings = ", ".join(f"{k} = {v}" for k, v in attrs.items())
        settings = f"<{settings}>" if settings else ""
        self.lines.append(f"{name} = {op} {settings} ({', '.join([self.last, *inputs])})")
        self.last = name
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(f"float{list(shape)} {name}")
        return name

    def conv(self, channels: int, kernel: int, stride: int = 1, pad: int = 0) -> str:
        weight = self.weight(channels, self.channels, kernel, kernel)
        self.channels = channels
        return self.op("Conv", weight, strides=[stride] * 2, pads=[pad] * 4)

    def conv_relu(self, channels: int, kernel: int, stride: int = 1, pad: int = 0) -> str:
        self.conv(channels, kernel, stride, pad)
        return self.op("Relu")

    def pool(self, kernel: int, stride: int, pad: int = 0) -> str:
        return self.op("MaxPool", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def dense(self, features: int, cells: int = 1) -> str:
        """A Gemm over `last`, which has so many cells per channel."""
        weight = self.weight(features, self.channels * cells)
        self.channels = features
        return self.op("Gemm", weight, self.weight(features), transB=1)

    def name(self, name: str) -> None:
        """Give `last` a name of its own."""
        self.lines.append(f"{name} = Identity ({self.last})")
        self.last = name

    def model(self, *, positive: bool = False) -> onnx.ModelProto:
        """The net, whose output `scores` is what was written last."""
        image = f"float[1,3,{self.size[0]},{self.size[1]}] image"
        out = f"float[1,{self.channels}] {self.last}"
        header = '<ir_version: 8, opset_import: ["": 13]>'
        body = "\n".join(self.lines)
        text = f"{header} net ({image}) => ({out}) <{', '.join(self.weights)}> {{ {body} }}"
        return nets.parse(text, positive=positive)


def caffenet(width: int = 2, classes: int = 5) -> Writer:
    """AlexNet as Caffe ships it: window 227 (Krizhevsky et al. 2012; BVLC CaffeNet)."""
    w = Writer((227, 227))
    w.conv_relu(width, 11, 4)
    w.pool(3, 2)
    w.conv_relu(width, 5, pad=2)
    w.pool(3, 2)
    for _ in range(3):
        w.conv_relu(width, 3, pad=1)
    w.pool(3, 2)
    w.name("map")
    return classifier(w, 6, [2 * width, 2 * width], classes)


def vgg(blocks: tuple[int, ...], widths: tuple[int, ...], hidden: int, classes: int) -> Writer:
    """VGG: blocks of padded 3x3 Convs, each followed by a pool (Simonyan & Zisserman 2015)."""
    w = Writer((224, 224))
    for count, width in zip(blocks, widths, strict=True):
        for _ in range(count):
            w.conv_relu(width, 3, pad=1)
        w.pool(2, 2)
    w.name("map")
    return classifier(w, 7, [hidden, hidden], classes)


def vgg16(width: int = 2, classes: int = 5) -> Writer:
    """VGG-16 (configuration D) of equal widths."""
    return vgg((2, 2, 3, 3, 3), (width,) * 5, 2 * width, classes)


def classifier(w: Writer, side: int, hidden: list[int], classes: int) -> Writer:
    """Flatten a map of `side` cells squared, hidden layers, scores."""
    w.op("Flatten", axis=1)
    cells = side * side
    for features in hidden:
        w.dense(features, cells)
        w.op("Relu")
        cells = 1
    w.dense(classes)
    w.name("scores")
    return w


def resnet50(width: int = 2, classes: int = 5, *, early: bool = False) -> Writer:
    """ResNet-50 (He et al. 2016), its strides in the 3x3 Convs, or `early` in the 1x1 before them."""
    w = Writer((224, 224))
    w.conv_relu(width, 7, 2, pad=3)
    w.pool(3, 2, pad=1)
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            stride = 2 if stage and not block else 1
            bottleneck(w, width, (stride, 1) if early else (1, stride))
    w.name("map")
    w.op("GlobalAveragePool")
    w.op("Flatten", axis=1)
    w.dense(classes)
    w.name("scores")
    return w


def bottleneck(w: Writer, width: int, strides: tuple[int, int]) -> None:
    """1x1, 3x3, 1x1 beside the identity, or beside a 1x1 where the stride changes."""
    start = w.last
    w.conv_relu(width, 1, strides[0])
    w.conv_relu(width, 3, strides[1], pad=1)
    inner = w.conv(width, 1)
    w.last = start
    shortcut = w.conv(width, 1, max(strides)) if max(strides) > 1 else start
    w.last = inner
    w.op("Add", shortcut)
    w.op("Relu")
