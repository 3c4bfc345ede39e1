"""Well-known nets as torch modules, as narrow as their shapes allow, with seeded weights.

Every net is a trunk, from the image to a map, and a head, from a window of that map to scores; so torch
itself says what a conversion must be equal to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")

from torch import Tensor, nn  # noqa: E402
from torch_layers import (  # noqa: E402
    CLASSES,
    LayerNorm2d,
    Mean,
    Shuffle,
    Tokens,
    basic,
    bottleneck,
    conv_norm,
    convnext_block,
    dense_layer,
    fire,
    inception,
    inverted,
    pooled,
)

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Net(nn.Module):
    """A classifier; `trunk` gives a map `[N, C, *cells]`, `head` scores `[N, K]` of a window of it."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.trunk(x))
        return scores


@dataclass(frozen=True)
class Known:
    """A net, the shape of its image without the batch, and what surgery must find.

    `stride` is in pixels, `step` in cells of the trunk's map. `refused` is what the dense engine says of
    it; with the verdict `global` that can be allowed.
    """

    build: Callable[[], Net]
    image: tuple[int, ...]
    verdict: str
    stride: tuple[int, ...] = ()
    step: tuple[int, ...] = (1, 1)
    refused: str = ""


def seeded(build: Callable[[], Net], seed: int = 0) -> Net:
    """A net in eval mode, with weights and statistics from a seed; no norm is left as it is born."""
    torch.manual_seed(seed)
    net = build()
    for module in net.modules():
        if isinstance(module, (*NORMS, nn.LayerNorm)):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    net.eval()
    return net


# ------------------------------------------------ nets that fold a map


def lenet() -> Net:
    """LeNet-5 without padding (LeCun et al. 1998)."""
    trunk = [nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 5), nn.Tanh(), nn.AvgPool2d(2)]
    head = [nn.Flatten(), nn.Linear(6 * 4 * 5, 12), nn.ReLU(), nn.Linear(12, 8), nn.Sigmoid()]
    return Net(nn.Sequential(*trunk), nn.Sequential(*head, nn.Linear(8, CLASSES)))


def alexnet() -> Net:
    """torchvision's AlexNet, with a pool that has nothing to do (Krizhevsky 2014)."""
    trunk = [nn.Conv2d(3, 4, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
    trunk += [nn.Conv2d(4, 6, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
    for _ in range(2):
        trunk += [nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)]
    trunk += [nn.MaxPool2d(3, 2)]
    head = [nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Dropout(), nn.Linear(6 * 6, 16), nn.ReLU()]
    head += [nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)]
    return Net(nn.Sequential(*trunk), nn.Sequential(*head))


def vgg() -> Net:
    """torchvision's VGG with norms: its adaptive pool takes 2x3 cells, so windows lie that far apart."""
    trunk: list[nn.Module] = []
    for i, o, last in ((3, 4, True), (4, 6, False), (6, 6, True)):
        trunk += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
        trunk += [nn.MaxPool2d(2)] if last else []
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10), nn.ReLU(inplace=True), nn.Dropout()]
    return Net(nn.Sequential(*trunk), nn.Sequential(*head, nn.Linear(10, CLASSES)))


def signal() -> Net:
    """A net over signals."""
    trunk = [nn.Conv1d(2, 4, 5, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 6, 3)]
    head = [nn.Flatten(), nn.Linear(6 * 8, 7), nn.ELU(), nn.Linear(7, CLASSES), nn.Softmax(1)]
    return Net(nn.Sequential(*trunk, nn.LeakyReLU(0.1)), nn.Sequential(*head))


def volume() -> Net:
    """A net over volumes."""
    trunk = [nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.MaxPool3d(2)]
    return Net(nn.Sequential(*trunk), nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 3 * 4, CLASSES)))


# ------------------------------------------------ nets that pool a map


def stem(channels: int) -> list[nn.Module]:
    """The first layers of ResNet and DenseNet."""
    return [*conv_norm(3, channels, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]


def resnet(block: Callable[..., nn.Module]) -> Net:
    """ResNet (He et al. 2016)."""
    return Net(nn.Sequential(*stem(4), block(4, 4), block(4, 8, 2), block(8, 8)), pooled(8))


def densenet() -> Net:
    """DenseNet, whose last ReLU is the head's (Huang et al. 2017)."""
    transition = [nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False), nn.AvgPool2d(2)]
    layers = [dense_layer(4, 2), dense_layer(6, 2), *transition, dense_layer(4, 2), nn.BatchNorm2d(6)]
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)]
    return Net(nn.Sequential(*stem(4), *layers), nn.Sequential(*head))


def mobilenet_v2() -> Net:
    """MobileNetV2 (Sandler et al. 2018)."""
    layers = [*conv_norm(3, 4, 3, 2), nn.ReLU6(), inverted(4, 4, 1), inverted(4, 6, 2), inverted(6, 6, 1)]
    head = nn.Sequential(Mean(), nn.Dropout(0.2), nn.Linear(12, CLASSES))
    return Net(nn.Sequential(*layers, *conv_norm(6, 12, 1), nn.ReLU6()), head)


def mobilenet_v3() -> Net:
    """MobileNetV3, with its gates (Howard et al. 2019)."""
    layers = [*conv_norm(3, 4, 3, 2), nn.Hardswish(), inverted(4, 4, 1, nn.ReLU, gate=True)]
    layers += [inverted(4, 6, 2, nn.Hardswish, kernel=5, gate=True), *conv_norm(6, 12, 1), nn.Hardswish()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.Hardswish(), nn.Dropout(0.2)]
    return Net(nn.Sequential(*layers), nn.Sequential(*head, nn.Linear(16, CLASSES)))


def efficientnet() -> Net:
    """EfficientNet: SiLU, and gates (Tan & Le 2019)."""
    layers = [*conv_norm(3, 4, 3, 2), nn.SiLU(), inverted(4, 4, 1, nn.SiLU, gate=True)]
    return Net(nn.Sequential(*layers, inverted(4, 6, 2, nn.SiLU)), pooled(6))


def convnext() -> Net:
    """ConvNeXt (Liu et al. 2022)."""
    layers = [nn.Conv2d(3, 4, 4, 4), LayerNorm2d(4, eps=1e-6), convnext_block(4), LayerNorm2d(4, eps=1e-6)]
    trunk = nn.Sequential(*layers, nn.Conv2d(4, 8, 2, 2), convnext_block(8))
    return Net(trunk, pooled(8, LayerNorm2d(8, eps=1e-6)))


def squeezenet() -> Net:
    """SqueezeNet, classified by a 1x1 convolution and then pooled (Iandola et al. 2016)."""
    layers = [nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), fire(4, 2, 8)]
    trunk = nn.Sequential(*layers, nn.MaxPool2d(3, 2, ceil_mode=True), fire(8, 2, 8))
    head = [nn.Dropout(), nn.Conv2d(8, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Net(trunk, nn.Sequential(*head))


def shufflenet() -> Net:
    """ShuffleNetV2 (Ma et al. 2018)."""
    layers = [*conv_norm(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Shuffle(8), Shuffle(8)]
    return Net(nn.Sequential(*layers), nn.Sequential(Mean(), nn.Linear(8, CLASSES)))


def googlenet() -> Net:
    """GoogLeNet (Szegedy et al. 2015)."""
    layers = [nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), inception(4)]
    return Net(nn.Sequential(*layers, nn.MaxPool2d(3, 2, ceil_mode=True), inception(7)), pooled(7))


# ------------------------------------------------ a net over tokens


def vit() -> Net:
    """A vision transformer of one block (Dosovitskiy et al. 2021)."""
    return Net(nn.Conv2d(3, 8, 8, 8), Tokens(8, patches=12))


GATE = r"(GlobalAveragePool|ReduceMean) .* returns to the map at Mul"
NETS = {
    "lenet": Known(lenet, (1, 28, 32), "exact", (4, 4)),
    "alexnet": Known(alexnet, (3, 95, 127), "padded", (32, 32)),
    "vgg": Known(vgg, (3, 16, 24), "padded", (8, 12), step=(2, 3)),
    "resnet basic": Known(lambda: resnet(basic), (3, 32, 48), "padded", (8, 8)),
    "resnet bottleneck": Known(lambda: resnet(bottleneck), (3, 32, 48), "padded", (8, 8)),
    "densenet": Known(densenet, (3, 32, 48), "padded", (8, 8)),
    "mobilenet v2": Known(mobilenet_v2, (3, 24, 32), "padded", (4, 4)),
    "mobilenet v3": Known(mobilenet_v3, (3, 24, 32), "global", (4, 4), refused=GATE),
    "efficientnet": Known(efficientnet, (3, 24, 32), "global", (4, 4), refused=GATE),
    "convnext": Known(convnext, (3, 32, 48), "padded", (8, 8)),
    "squeezenet": Known(squeezenet, (3, 34, 46), "padded", (8, 8)),
    "shufflenet": Known(shufflenet, (3, 24, 32), "padded", (4, 4)),
    "googlenet": Known(googlenet, (3, 32, 48), "padded", (8, 8)),
    "signal": Known(signal, (2, 43), "exact", (4,), step=(1,)),
    "volume": Known(volume, (1, 6, 8, 10), "exact", (2, 2, 2), step=(1, 1, 1)),
    "vit": Known(vit, (3, 24, 32), "refused", refused=r"Concat .* class token"),
}
