"""The layers and blocks that well-known nets are made of, as torch modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

CLASSES = 5


class Written(nn.Module):
    """A function, called with the module itself, for its layers and parameters, and what it is given."""

    def __init__(self, write: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.write = write
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


class Permute(nn.Module):
    """The dims in another order."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class Mean(nn.Module):
    """The mean over all cells, as torchvision writes MobileNetV2's pool."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class Residual(nn.Module):
    """A body beside a shortcut, added up; `last` comes behind the sum."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, last: nn.Module | None = None):
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.body(x) + self.shortcut(x))
        return y


class Beside(nn.Module):
    """What several branches give, one behind the other in the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class SqueezeExcite(nn.Module):
    """A gate for every channel, computed from the whole map (Hu et al. 2018, as in MobileNetV3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, 4, 1)
        self.up = nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * functional.hardsigmoid(self.up(functional.relu(self.down(pooled))))


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, by way of channels last (Liu et al. 2022)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    """ConvNeXt's layer scale; the constant is the first factor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class Shuffle(nn.Module):
    """Half of the channels pass a body, then the halves are shuffled (Ma et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.half = half
        self.body = nn.Sequential(*conv_norm(half, half, 1), nn.ReLU(), *conv_norm(half, half, groups=half))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, : self.half], self.body(x[:, self.half :])], 1)
        batch, channels, height, width = x.shape
        apart = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return apart.view(batch, -1, height, width)


class Tokens(nn.Module):
    """Attention over the patches of the window, a class token among them (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 1 + patches, width))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        layers = (nn.LayerNorm(width), nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.mlp = Residual(nn.Sequential(*layers))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        batch, count, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, count, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.out(seen.transpose(1, 2).reshape(batch, count, width))
        scores: Tensor = self.last(self.mlp(x)[:, 0])
        return scores


def conv_norm(i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(o)]


def basic(i: int, o: int, stride: int = 1) -> nn.Module:
    """ResNet's block of two 3x3 convolutions (He et al. 2016)."""
    body = nn.Sequential(*conv_norm(i, o, 3, stride), nn.ReLU(), *conv_norm(o, o))
    return Residual(body, _shortcut(i, o, stride), nn.ReLU())


def bottleneck(i: int, o: int, stride: int = 1) -> nn.Module:
    """ResNet's block of 1x1, 3x3, 1x1."""
    inner = o // 2
    layers = [*conv_norm(i, inner, 1), nn.ReLU(), *conv_norm(inner, inner, 3, stride), nn.ReLU()]
    return Residual(nn.Sequential(*layers, *conv_norm(inner, o, 1)), _shortcut(i, o, stride), nn.ReLU())


def _shortcut(i: int, o: int, stride: int) -> nn.Module | None:
    return nn.Sequential(*conv_norm(i, o, 1, stride)) if stride > 1 or i != o else None


def dense_layer(i: int, growth: int) -> nn.Module:
    """DenseNet's layer: all that came before, and a little more (Huang et al. 2017)."""
    first = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), *conv_norm(i, 2 * growth, 1))
    body = nn.Sequential(first, nn.ReLU(), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False))
    return Beside(nn.Identity(), body)


def inverted(
    i: int, o: int, stride: int, act: type[nn.Module] = nn.ReLU6, *, kernel: int = 3, gate: bool = False
) -> nn.Module:
    """MobileNet's inverted residual (Sandler et al. 2018; Howard et al. 2019)."""
    wide = 2 * i
    layers = [*conv_norm(i, wide, 1), act(), *conv_norm(wide, wide, kernel, stride, wide), act()]
    layers += [SqueezeExcite(wide)] if gate else []
    body = nn.Sequential(*layers, *conv_norm(wide, o, 1))
    return Residual(body) if stride == 1 and i == o else body


def convnext_block(channels: int) -> nn.Module:
    """ConvNeXt's block, its 1x1 convolutions as Linears over channels last (Liu et al. 2022)."""
    layers = [nn.Conv2d(channels, channels, 7, padding=3, groups=channels), Permute(0, 2, 3, 1)]
    layers += [nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, 4 * channels), nn.GELU()]
    layers += [nn.Linear(4 * channels, channels), Permute(0, 3, 1, 2), Scale(channels)]
    return Residual(nn.Sequential(*layers))


def fire(i: int, squeezed: int, o: int) -> nn.Module:
    """SqueezeNet's module (Iandola et al. 2016)."""
    wide = Beside(nn.Conv2d(squeezed, o // 2, 1), nn.Conv2d(squeezed, o // 2, 3, padding=1))
    return nn.Sequential(nn.Conv2d(i, squeezed, 1), nn.ReLU(), wide, nn.ReLU())


def inception(i: int) -> nn.Module:
    """GoogLeNet's module, of seven channels (Szegedy et al. 2015)."""
    three = nn.Sequential(nn.Conv2d(i, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1))
    pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.Conv2d(i, 2, 1))
    return nn.Sequential(Beside(nn.Conv2d(i, 2, 1), three, pooled), nn.ReLU())


def pooled(channels: int, *between: nn.Module) -> nn.Module:
    """A head over the mean of the map."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), *between, nn.Flatten(), nn.Linear(channels, CLASSES))
