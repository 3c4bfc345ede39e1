"""What people write in torch between pixels and a map, with the verdict it must have, from both exporters.

A map that a window's border does not reach gives torch's answers on crops; one that it reaches gives those of
torch's head on the windows of torch's map of the whole image; the exact engine gives those on crops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import law
import numpy as np
import onnx
import pytest
from done import Done, convert
from exporting import Way, assert_map, at_crops, at_windows, export

import surgery

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")

from torch import Tensor, nn  # noqa: E402
from torch.nn import Conv2d  # noqa: E402
from torch.nn import functional as f  # noqa: E402
from torch_layers import CLASSES, Written  # noqa: E402
from torch_nets import Net, seeded  # noqa: E402

pytestmark = [pytest.mark.deep, pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")]

WAYS = (Way(False, 13, False), Way(False, 17, True), Way(True, 18, True))
IMAGE = (3, 24, 32)


def first(*layers: nn.Module) -> nn.Module:
    """Layers behind a pad-free convolution: a map of four channels and 11x15 cells."""
    return nn.Sequential(Conv2d(3, 4, 3, 2), nn.ReLU(), *layers)


def small(*layers: nn.Module, stride: int = 2) -> nn.Module:
    """Layers before such a convolution."""
    return nn.Sequential(*layers, Conv2d(3, 4, 3, stride), nn.ReLU())


def norm_all(s: Any, x: Tensor) -> Tensor:
    return x / (x.pow(2).sum((2, 3), keepdim=True) + 1).sqrt()


def apart(s: Any, x: Tensor) -> Tensor:
    """Space to depth by hand."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 4, h // 2, w // 2)


def together(s: Any, x: Tensor) -> Tensor:
    """Depth to space by hand."""
    n, c, h, w = x.shape
    return x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, h * 2, w * 2)


def attended(s: Any, x: Tensor) -> Tensor:
    """Every position a mean of all (Wang et al. 2018)."""
    q = x.flatten(2)
    seen = torch.softmax(torch.bmm(q.transpose(1, 2), q), -1).transpose(1, 2)
    return x + torch.bmm(q, seen).view_as(x)


def linear(s: Any, x: Tensor) -> Tensor:
    """Every position a product with a sum over all, by unit vectors (Shaker et al. 2023)."""
    q = f.normalize(x.flatten(2).transpose(1, 2), dim=-1)
    k = torch.softmax(x.flatten(2), 1)
    return x + (q @ (k @ q)).transpose(1, 2).view_as(x)


def rows_first(s: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(2, keepdim=True).mean(3, keepdim=True))


def gated(s: Any, x: Tensor) -> Tensor:
    """A gate by a Linear, in place of convolutions."""
    return x * torch.sigmoid(s.fc(f.adaptive_avg_pool2d(x, 1).flatten(1)))[:, :, None, None].expand_as(x)


def mixed(s: Any, x: Tensor) -> Tensor:
    """A gate by a convolution along the channels (Wang et al. 2020)."""
    pooled = x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2)
    return x * torch.sigmoid(s.conv(pooled)).transpose(-1, -2).unsqueeze(-1)


def spatial(s: Any, x: Tensor) -> Tensor:
    """A gate of every cell by what is around it (Woo et al. 2018)."""
    return x * torch.sigmoid(s.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


def written(s: Any, x: Tensor) -> Tensor:
    """Channels normalised in place, one and several at a time."""
    x = x.clone()
    x[:, 0] = (x[:, 0] - 0.485) / 0.229
    x[:, 1:] = x[:, 1:] * 2
    return x


def focus(s: Any, x: Tensor) -> Tensor:
    return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


EXACT = {
    "normalised in the model": lambda: small(
        Written(lambda s, x: (x - s.mean) / s.std, mean=_drawn(1, 3, 1, 1), std=_drawn(1, 3, 1, 1))
    ),
    "normalised in place": lambda: small(Written(written)),
    "other order of colours": lambda: small(Written(lambda s, x: x[:, [2, 1, 0]])),
    "grey": lambda: nn.Sequential(Written(lambda s, x: (x * 0.3).sum(1, keepdim=True)), Conv2d(1, 4, 3, 2)),
    "space to depth": lambda: nn.Sequential(nn.PixelUnshuffle(2), Conv2d(12, 4, 3)),
    "space to depth by hand": lambda: nn.Sequential(Written(apart), Conv2d(12, 4, 3)),
    "focus": lambda: nn.Sequential(Written(focus), Conv2d(12, 4, 3)),
    "depth to space": lambda: nn.Sequential(Conv2d(3, 8, 3, 2), nn.PixelShuffle(2), Conv2d(2, 4, 3, 2)),
    "depth to space by hand": lambda: nn.Sequential(
        Conv2d(3, 8, 3, 2), Written(together), Conv2d(2, 4, 3, 2)
    ),
    "transposed": lambda: first(nn.ConvTranspose2d(4, 4, 2, 2), Conv2d(4, 4, 3, 2)),
    "cut by negative pads": lambda: first(nn.ZeroPad2d(-1)),
    "cut by a slice": lambda: first(Written(lambda s, x: x[:, :, 1:-1, 2:])),
    "dilated": lambda: nn.Sequential(Conv2d(3, 4, 3, dilation=(2, 3)), nn.ReLU(), nn.MaxPool2d(2)),
    "norm pool": lambda: first(nn.LPPool2d(2, 2)),
    "adaptive pools": lambda: nn.Sequential(Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((11, 15)), nn.ReLU()),
    "linear, channels last": lambda: small(
        Written(lambda s, x: s.fc(x.permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2), fc=nn.Linear(3, 3))
    ),
    "matmul of channels": lambda: first(
        Written(lambda s, x: (s.w @ x.flatten(2)).view(x.shape[0], 5, 11, 15), w=_drawn(5, 4))
    ),
    "split and joined": lambda: first(
        Written(lambda s, x: torch.cat([a.tanh() for a in x.split([1, 3], 1)][::-1], 1))
    ),
    "maxout": lambda: first(Written(lambda s, x: torch.maximum(*x.chunk(2, 1)))),
    "both signs": lambda: first(Written(lambda s, x: f.relu(torch.cat([x, -x], 1)))),
    "softmax of channels": lambda: first(nn.Softmax2d()),
    "local response": lambda: first(nn.LocalResponseNorm(3, alpha=0.5)),
    "activations": lambda: first(
        *(nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.PReLU(4), nn.ELU(), nn.SELU(), nn.Softplus()),
        *(nn.Hardsigmoid(), nn.GELU("tanh"), nn.LogSigmoid(), nn.Softsign(), nn.CELU(), nn.ReLU6()),
    ),
    "sorted channels": lambda: first(Written(lambda s, x: x.topk(2, 1)[0])),
    "half and back": lambda: first(Written(lambda s, x: x.half().float())),
}
PADDED = {
    "upsampled": lambda: first(nn.Upsample(scale_factor=2), Conv2d(4, 4, 3, 2, 1)),
    "upsampled, linear": lambda: first(nn.Upsample(scale_factor=2, mode="bilinear"), Conv2d(4, 4, 3, 2, 1)),
    "reflected": lambda: small(nn.ReflectionPad2d(1)),
    "replicated": lambda: nn.Sequential(Conv2d(3, 4, 3, 2, 1, padding_mode="replicate"), nn.ReLU()),
    "one side": lambda: small(nn.ZeroPad2d((0, 1, 0, 1))),
    "constant": lambda: small(nn.ConstantPad2d((1, 2, 0, 1), 0.7)),
    "same": lambda: nn.Sequential(Conv2d(3, 4, 4, padding="same"), nn.MaxPool2d(2)),
    "dilated pool": lambda: nn.Sequential(Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1, dilation=2)),
    "average": lambda: nn.Sequential(Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1)),
    "average of what is there": lambda: nn.Sequential(
        Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    ),
    "truncated average": lambda: nn.Sequential(Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, ceil_mode=True)),
    "pyramid of pools": lambda: first(
        Written(lambda s, x: torch.cat([x, *(f.max_pool2d(x, k, 1, k // 2) for k in (3, 5))], 1))
    ),
    "gate of a cell": lambda: first(Written(spatial, conv=Conv2d(2, 1, 5, padding=2))),
}
GLOBAL = {
    "GroupNorm": (lambda: first(nn.GroupNorm(2, 4)), "InstanceNormalization|GroupNormalization"),
    "InstanceNorm": (lambda: first(nn.InstanceNorm2d(4, affine=True)), "InstanceNormalization"),
    "gate by a Linear": (lambda: first(Written(gated, fc=nn.Linear(4, 4))), "Pool|ReduceMean"),
    "gate by rows and columns": (lambda: first(Written(rows_first)), "ReduceMean"),
    "attention by a sum": (lambda: first(Written(linear)), "MatMul"),
    "gate along channels": (lambda: first(Written(mixed, conv=nn.Conv1d(1, 1, 3, padding=1))), "ReduceMean"),
    "unit maps": (lambda: first(Written(norm_all)), "ReduceSum"),
    "centred": (lambda: small(Written(lambda s, x: x - x.mean((2, 3), keepdim=True))), "ReduceMean"),
    "attention": (lambda: first(Written(attended)), "MatMul .*attention"),
    "corners aligned": (
        lambda: first(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), Conv2d(4, 4, 3, 2, 1)
        ),
        "Resize .* align_corners",
    ),
}


def _drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape) + 0.5)


def folded(trunk: nn.Module) -> Net:
    with torch.no_grad():
        features = trunk.eval()(torch.zeros(1, *IMAGE)).numel()
    return Net(trunk, nn.Sequential(nn.Flatten(), nn.Linear(features, CLASSES)))


@dataclass(frozen=True)
class Model:
    """A trunk under a folding head, in torch and as exported."""

    net: Net
    proto: onnx.ModelProto

    @classmethod
    def of(cls, build: Callable[[], nn.Module], way: Way) -> Model:
        net = seeded(lambda: folded(build()))
        return cls(net, export(net, IMAGE, way))

    def picture(self, size: tuple[int, ...]) -> law.Array:
        return np.random.default_rng(3).standard_normal((1, IMAGE[0], *size), dtype=np.float32)

    def assert_crops(self, done: Done, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        image = self.picture(size)
        grid, want = at_crops(self.net, image, IMAGE[1:], stride)
        assert_map(law.run(done.proto, image)["scores"], grid, want, f"{size}")

    def assert_windows(self, done: Done) -> None:
        """At a size larger by whole strides: one cell for each of them."""
        g = done.geometry
        image = self.picture(tuple(w + 3 * s for w, s in zip(g.window, g.stride, strict=True)))
        grid, want = at_windows(self.net, image, IMAGE[1:], (1, 1))
        assert all(n >= 4 for n in grid)
        assert_map(law.run(done.proto, image)["scores"], grid, want, "windows")


def larger(g: surgery.Geometry) -> tuple[int, ...]:
    """An image two windows and what no stride divides larger, where the net takes that."""
    return tuple(w + 3 * s - t for w, s, t in zip(g.window, g.stride, g.step, strict=True))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_trunk_without_a_border_equals_crops(name: str, way: Way) -> None:
    model = Model.of(EXACT[name], way)
    done = convert(model.proto)
    assert done.result.verdict == "exact"
    model.assert_crops(done, larger(done.geometry), done.geometry.stride)
    model.assert_crops(convert(model.proto, exact=True, sizes=[(27, 43)], stride=(3, 4)), (27, 43), (3, 4))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", PADDED)
def test_trunk_with_a_border_equals_windows(name: str, way: Way) -> None:
    model = Model.of(PADDED[name], way)
    done = convert(model.proto)
    assert done.result.verdict == "padded"
    model.assert_windows(done)
    model.assert_crops(convert(model.proto, exact=True, sizes=[(27, 43)], stride=(3, 4)), (27, 43), (3, 4))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", GLOBAL)
def test_trunk_that_sees_the_whole_image(name: str, way: Way) -> None:
    build, reason = GLOBAL[name]
    model = Model.of(build, way)
    with pytest.raises(surgery.Refused, match=f"verdict global: .*({reason})"):
        surgery.convert(model.proto)
    done = convert(model.proto, allow_global=True)
    assert done.result.verdict == "global"
    model.assert_windows(done)
    model.assert_crops(convert(model.proto, exact=True, sizes=[(27, 43)], stride=(3, 4)), (27, 43), (3, 4))
