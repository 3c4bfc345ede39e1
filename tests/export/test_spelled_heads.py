"""What people write in torch behind a map: its answer at every position is torch's on that crop."""

from __future__ import annotations

from typing import Any

import law
import numpy as np
import onnx
import pytest
from done import convert
from exporting import Way, assert_map, at_crops, export

import surgery

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[export]'")

from torch import nn  # noqa: E402
from torch.nn import functional as f  # noqa: E402
from torch_layers import Written  # noqa: E402
from torch_nets import Net, seeded  # noqa: E402

pytestmark = pytest.mark.deep

WAYS = (Way(False, 13, True), Way(False, 17, False), Way(True, 18, True))
IMAGE, STRIDE = (2, 21, 25), (4, 4)
C, H, W = 6, 4, 5  # the map's channels and cells
K = C * H * W


def trunk() -> nn.Module:
    layers = (nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, C, 2), nn.ReLU())
    return nn.Sequential(*layers)


def drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.3)


def folded(write: Any, **parts: Any) -> Written:
    """A head with a Linear over the folded map."""
    return Written(write, fc=nn.Linear(K, 5), **parts)


def pooled(write: Any, **parts: Any) -> Written:
    """A head with a Linear over a value of each channel."""
    return Written(write, fc=nn.Linear(C, 5), **parts)


def twenty(write: Any, **parts: Any) -> Written:
    """A head over twenty features."""
    return Written(lambda s, x: write(s, s.fc(x.flatten(1))), fc=nn.Linear(K, 20), **parts)


FLATTENED = {
    "view size": lambda: folded(lambda s, x: s.fc(x.view(x.size(0), -1))),
    "view -1": lambda: folded(lambda s, x: s.fc(x.view(-1, K))),
    "reshape": lambda: folded(lambda s, x: s.fc(x.reshape(x.shape[0], K))),
    "flatten last": lambda: folded(lambda s, x: s.fc(x.flatten(-3))),
    "flatten twice": lambda: folded(lambda s, x: s.fc(x.flatten(2).flatten(1))),
    "channels last": lambda: folded(lambda s, x: s.fc(x.permute(0, 2, 3, 1).flatten(1))),
    "columns first": lambda: folded(lambda s, x: s.fc(x.permute(0, 3, 2, 1).reshape(-1, K))),
    "matmul": lambda: folded(lambda s, x: x.flatten(1) @ s.fc.weight.t() + s.fc.bias),
    "one more dim": lambda: folded(lambda s, x: s.fc(x.flatten(1).unsqueeze(1)).squeeze(1)),
    "convolution of the whole": lambda: Written(
        lambda s, x: f.conv2d(x, s.w).flatten(1), w=drawn(5, C, H, W)
    ),
    "reversed": lambda: folded(lambda s, x: s.fc(x.flatten(1)[:, torch.arange(K - 1, -1, -1)])),
    "flipped": lambda: folded(lambda s, x: s.fc(torch.cat([x[..., 3:], x[..., :3]], 3).flatten(1))),
    "masked": lambda: folded(lambda s, x: s.fc((x * s.mask).flatten(1)), mask=drawn(1, 1, H, W)),
    "shifted": lambda: folded(lambda s, x: s.fc((x + s.shift).flatten(1)), shift=drawn(1, C, H, W)),
    "normed": lambda: folded(lambda s, x: s.fc(s.norm(x.flatten(1))), norm=nn.BatchNorm1d(K)),
    "normed by layer": lambda: folded(lambda s, x: s.fc(s.norm(x.flatten(1))), norm=nn.LayerNorm(K)),
    "unit channels": lambda: folded(lambda s, x: s.fc(f.normalize(x + 1, dim=1).flatten(1))),
    "cosine": lambda: folded(lambda s, x: f.linear(f.normalize(x.flatten(1)), f.normalize(s.fc.weight))),
    "softmax of positions": lambda: folded(lambda s, x: s.fc(f.softmax(x.flatten(2), -1).flatten(1))),
}
POOLED = {
    "mean": lambda: pooled(lambda s, x: s.fc(x.mean((2, 3)))),
    "mean of means": lambda: pooled(lambda s, x: s.fc(x.mean(3).mean(2))),
    "mean of a row": lambda: pooled(lambda s, x: s.fc(x.flatten(2).mean(-1))),
    "mean of tokens": lambda: pooled(lambda s, x: s.fc(x.flatten(2).transpose(1, 2).mean(1))),
    "mean of scores": lambda: pooled(lambda s, x: s.fc(x.permute(0, 2, 3, 1)).mean((1, 2))),
    "sum": lambda: pooled(lambda s, x: s.fc(x.sum((-1, -2)))),
    "largest": lambda: pooled(lambda s, x: s.fc(x.amax((2, 3)))),
    "largest of largest": lambda: pooled(lambda s, x: s.fc(x.max(3)[0].max(2)[0])),
    "adaptive": lambda: pooled(lambda s, x: s.fc(f.adaptive_max_pool2d(x, 1)[:, :, 0, 0])),
    "a pool as large": lambda: pooled(lambda s, x: s.fc(f.avg_pool2d(x, (H, W)).squeeze(-1).squeeze(-1))),
    "generalised mean": lambda: pooled(lambda s, x: s.fc((x + 0.1).pow(3).mean((2, 3)).pow(1 / 3))),
    "log sum": lambda: pooled(lambda s, x: s.fc(torch.logsumexp(x, (2, 3)))),
    "a part": lambda: pooled(lambda s, x: s.fc(x[:, :, 1:3, 1:-1].mean((2, 3)))),
    "the middle": lambda: pooled(lambda s, x: s.fc(x[:, :, 2, 2])),
    "the corner": lambda: pooled(lambda s, x: s.fc(x[..., -1, 0])),
    "twice": lambda: pooled(lambda s, x: torch.cat([s.fc(x.amax((2, 3))), s.fc(x.mean((2, 3)))], 1)),
    "a convolution": lambda: Written(lambda s, x: s.c(x.mean((2, 3), True)).flatten(1), c=nn.Conv2d(C, 5, 1)),
    "grams": lambda: Written(lambda s, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).flatten(1)),
}
ANSWERS = {
    "unit length": lambda: twenty(lambda s, x: f.normalize(x, dim=1)),
    "BatchNorm1d": lambda: twenty(lambda s, x: s.norm(x), norm=nn.BatchNorm1d(20)),
    "LayerNorm": lambda: twenty(lambda s, x: s.norm(x), norm=nn.LayerNorm(20)),
    "PReLU": lambda: twenty(lambda s, x: s.act(x), act=nn.PReLU(20)),
    "GELU": lambda: twenty(lambda s, x: f.gelu(x)),
    "Hardswish": lambda: twenty(lambda s, x: f.hardswish(x)),
    "Mish": lambda: twenty(lambda s, x: f.mish(x)),
    "GLU": lambda: twenty(lambda s, x: f.glu(x, 1)),
    "maxout": lambda: twenty(lambda s, x: torch.stack(x.chunk(4, 1), 2).amax(2)),
    "log softmax": lambda: twenty(lambda s, x: f.log_softmax(x, -1)),
    "groups": lambda: twenty(lambda s, x: x.view(-1, 4, 5).softmax(-1)),
    "groups across": lambda: twenty(lambda s, x: x.view(-1, 4, 5).softmax(1)),
    "residual": lambda: twenty(lambda s, x: x + s.next(f.gelu(x)), next=nn.Linear(20, 20)),
    "one weight twice": lambda: twenty(lambda s, x: s.next(s.next(x).tanh()), next=nn.Linear(20, 20)),
    "gate": lambda: twenty(lambda s, x: x * torch.sigmoid(s.next(x)), next=nn.Linear(20, 20)),
    "where": lambda: twenty(lambda s, x: torch.where(x > 0, x, x * 0.2)),
    "distances": lambda: twenty(
        lambda s, x: -((x[:, None] - s.others[None]) ** 2).sum(-1), others=drawn(4, 20)
    ),
    "split": lambda: twenty(lambda s, x: torch.cat([a * i for i, a in enumerate(x.split([3, 7, 10], 1))], 1)),
    "one of the scores": lambda: twenty(lambda s, x: torch.sigmoid(x)[:, 0]),
    "mean of the scores": lambda: twenty(lambda s, x: x.mean(1)),
    "dropout": lambda: twenty(lambda s, x: f.dropout(x, 0.5, False)),
    "best": lambda: twenty(lambda s, x: x.argmax(1)),
    "best value": lambda: twenty(lambda s, x: x.max(1, keepdim=True)[0]),
    "best three": lambda: twenty(lambda s, x: x.topk(3, 1)[0]),
    "sorted": lambda: twenty(lambda s, x: x.sort(1, descending=True)[0]),
    "cumulative": lambda: twenty(lambda s, x: x.cumsum(1)),
    "attention over the window's own cells": lambda: Written(
        lambda s, x: s.mix(*[x.flatten(2).transpose(1, 2)] * 3)[0].mean(1),
        mix=nn.MultiheadAttention(C, 2, batch_first=True),
    ),
}
HEADS = {**FLATTENED, **POOLED, **ANSWERS}
REFUSED = {
    "recurrent": (
        lambda: Written(
            lambda s, x: s.rnn(x.mean(2).transpose(1, 2))[0][:, -1], rnn=nn.GRU(C, 5, batch_first=True)
        ),
        "GRU .* sequence",
    ),
    "over positions": (
        lambda: Written(lambda s, x: s.conv(x.flatten(2)).flatten(1), conv=nn.Conv1d(C, 2, 3)),
        "Conv .* map",
    ),
}


def model_of(build: Any, way: Way) -> tuple[Net, onnx.ModelProto]:
    net = seeded(lambda: Net(trunk(), build()))
    return net, export(net, IMAGE, way)


def assert_equals_crops(net: Net, proto: onnx.ModelProto, size: tuple[int, ...]) -> None:
    image = np.random.default_rng(3).standard_normal((1, IMAGE[0], *size), dtype=np.float32)
    grid, want = at_crops(net, image, IMAGE[1:], STRIDE)
    assert_map(law.run(proto, image)["scores"], grid, want, f"{size}")


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_head_is_lifted(name: str, way: Way) -> None:
    net, proto = model_of(HEADS[name], way)
    done = convert(proto)
    assert (done.result.verdict, done.geometry.stride) == ("exact", STRIDE)
    assert_equals_crops(net, done.proto, (28, 34))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_head_is_refused_by_the_dense_engine_alone(name: str, way: Way) -> None:
    build, reason = REFUSED[name]
    net, proto = model_of(build, way)
    with pytest.raises(surgery.Refused, match=reason) as refused:
        surgery.convert(proto)
    assert refused.value.node
    assert refused.value.op
    done = convert(proto, exact=True, sizes=[(28, 34)], stride=STRIDE)
    assert_equals_crops(net, done.proto, (28, 34))
