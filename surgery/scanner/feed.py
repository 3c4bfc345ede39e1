"""From pixels to the tensor a model takes: channel order, value range, layout, dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from surgery.errors import BadInput
from surgery.model import Model, dims_of, dtype_of

Numbers = float | Sequence[float]

LAYOUTS = {"NCHW": (1, (2, 3)), "NHWC": (3, (1, 2))}  # the dim of channels, those of height and width
CHANNELS = {"L": 1, "RGB": 3, "BGR": 3}
UNIT_RANGE = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Feed:
    """How pixels become the input `name`.

    Float inputs hold `(low + pixel / 255 * (high - low) - mean) / std`, with one mean and std per
    channel in the model's own order; integer inputs hold the pixels as they are. `size` is the height
    and width of a model that takes only one, else None.
    """

    name: str
    dtype: np.dtype[Any]
    layout: str
    channels: str
    low: float
    high: float
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    size: tuple[int, int] | None

    @property
    def mode(self) -> str:
        """Pillow's mode of the images it takes."""
        return "L" if self.channels == "L" else "RGB"

    def tensor(self, image: Image.Image) -> NDArray[Any]:
        """An image in this feed's mode as a batch of one."""
        pixels = np.atleast_3d(np.asarray(image))
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        planes = [table[pixels[..., k]] for k, table in enumerate(self.tables())]
        return np.stack(planes, axis=LAYOUTS[self.layout][0] - 1)[None]

    def tables(self) -> NDArray[Any]:
        """What the input holds for each value of a pixel, `[channels, 256]`, in the input's own type."""
        levels: NDArray[Any] = np.arange(256)[None]
        if self.dtype.kind == "f":
            spread = self.low + levels / 255 * (self.high - self.low)
            levels = (spread - self.mean[:, None]) / self.std[:, None]
        return np.broadcast_to(levels, (CHANNELS[self.channels], 256)).astype(self.dtype)


def plan_feed(
    model: Model,
    *,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    input_range: Sequence[float] | None = None,
    layout: str | None = None,
    channels: str | None = None,
) -> Feed:
    """The feed of a model's image input; what is not given is read off the input's own dims.

    Raises BadInput where the model takes no pictures, or what is given does not fit it.
    """
    value = model.image
    others = [v.name for v in model.proto.graph.input if v.name != value.name]
    if others:
        raise BadInput(
            f"{model.name} has inputs beside the image {value.name!r}: {', '.join(map(repr, others))}. Only "
            "models of one input can be scanned; make the others constants of the model."
        )
    dims = dims_of(value)
    if len(dims) != 4:
        raise BadInput(f"the input {value.name!r} {list(dims)} of {model.name} takes no pictures.")
    layout = layout or layout_of(value, model.name)
    if layout not in LAYOUTS:
        raise BadInput(f"layout {layout!r} is not known; there are {', '.join(LAYOUTS)}.")
    at, space = LAYOUTS[layout]
    channels = channels_of(dims[at], channels, model.name)
    height, width = (dims[a] for a in space)
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    dtype = np.dtype(dtype_of(value))
    if dtype.kind != "f":
        check_raw(dtype, value.name, mean, std, input_range)
    low, high = span_of(input_range)
    count = CHANNELS[channels]
    means, stds = numbers(mean, "mean", count, default=0.0), numbers(std, "std", count, default=1.0)
    if not stds.all():
        raise BadInput("a std of 0 would divide by nothing; give 1 for a channel that is not scaled.")
    feed = Feed(value.name, dtype, layout, channels, low, high, means, stds, size)
    if dtype.kind == "f":
        check_range(feed)
    return feed


def check_range(feed: Feed) -> None:
    """Raise BadInput where black or white is beyond what the input's type holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        ends = feed.tables()[:, [0, -1]]
    if not np.isfinite(ends).all():
        raise BadInput(f"with this mean, std and input range the pixels are beyond what {feed.dtype} holds.")


def layout_of(value: onnx.ValueInfoProto, name: str) -> str:
    """NCHW or NHWC, by which dim of the input can be channels."""
    dims = dims_of(value)
    fits = [layout for layout, (at, _) in LAYOUTS.items() if dims[at] in CHANNELS.values()]
    if len(fits) == 1:
        return fits[0]
    why = "has no dim of 1 or 3 channels" if not fits else "could be either"
    raise BadInput(
        f"the layout of the input {value.name!r} {list(dims)} of {name} {why}; give layout (--layout) "
        "NCHW or NHWC. Pictures have 1 or 3 channels."
    )


def channels_of(have: int | str, asked: str | None, name: str) -> str:
    """The channels of the model's input, from what its dim allows."""
    if asked is None:
        asked = "L" if have == 1 else "RGB"
    if asked not in CHANNELS:
        raise BadInput(f"channels {asked!r} are not known; there are {', '.join(CHANNELS)}.")
    if isinstance(have, int) and have != CHANNELS[asked]:
        raise BadInput(f"{name} takes {have} channels, and {asked} has {CHANNELS[asked]}.")
    return asked


def check_raw(dtype: np.dtype[Any], name: str, *given: object) -> None:
    """Raise BadInput where an integer input cannot hold pixels, or is to be normalised."""
    if dtype.kind not in "iu" or not np.can_cast(np.uint8, dtype):
        raise BadInput(f"the input {name!r} is of type {dtype}, which cannot hold pixels from 0 to 255.")
    if any(g is not None for g in given):
        raise BadInput(
            f"the input {name!r} is of type {dtype} and takes the pixels as they are: mean, std and input "
            "range do not apply (the model normalises inside)."
        )


def span_of(input_range: Sequence[float] | None) -> tuple[float, float]:
    """What black and white become, before mean and std."""
    ends = [float(v) for v in (UNIT_RANGE if input_range is None else input_range)]
    if len(ends) != 2 or not np.isfinite(ends).all() or ends[0] == ends[1]:
        raise BadInput(f"the input range {ends} is not two different numbers: what black and white become.")
    return ends[0], ends[1]


def numbers(given: Numbers | None, what: str, count: int, *, default: float) -> NDArray[np.float64]:
    """One finite number per channel."""
    values = np.atleast_1d(np.asarray(default if given is None else given, dtype=np.float64))
    if values.shape not in ((1,), (count,)):
        raise BadInput(f"{what} has {values.size} numbers; give one, or one for each of {count} channels.")
    if not np.isfinite(values).all():
        raise BadInput(f"{what} {values.tolist()} is not finite.")
    return np.broadcast_to(values, (count,))
