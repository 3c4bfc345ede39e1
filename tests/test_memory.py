"""The estimated peak of activations, against what onnxruntime is seen to hold."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nets
import onnx
import pytest
import small_shapes
from exactly import cuts

import surgery
from surgery.memory import peak
from surgery.session import Session

WITHIN = 0.3
MEASURE = """
import sys, ctypes, numpy as np, onnxruntime as ort

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = False
options.enable_mem_pattern = False
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = session.get_inputs()[0]
shape = [d if isinstance(d, int) else 1 for d in image.shape]
pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
ctypes.CDLL("libc.so.6").malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # sets the peak back to what is held now
before = status("VmRSS")
session.run(None, {image.name: pixels})
print(status("VmHWM") - before)
"""


def measured(model: onnx.ModelProto, folder: Path) -> int:
    """How much more memory a process holds at the peak of a run than before it, in bytes.

    Without onnxruntime's arena and its memory pattern, and with every large block given back at once, that
    is what the tensors take.
    """
    path = folder / "model.onnx"
    onnx.save(model, path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


# ------------------------------------------------ laws


def conv(channels: int, size: int, count: int) -> onnx.ModelProto:
    """Convolutions of `channels` channels one after another on an image of `size` pixels a side."""
    lines = [f"x{i + 1} = Conv <pads = [1, 1, 1, 1]> (x{i}, w{i})" for i in range(count)]
    weights = [f"float[{channels},{channels},3,3] w{i}" for i in range(count)]
    return nets.parse(
        f'<ir_version: 8, opset_import: ["": 13]> net (float[N,{channels},{size},{size}] x0) => '
        f"(float[N,{channels},{size},{size}] x{count}) <{', '.join(weights)}> {{ {' '.join(lines)} }}"
    )


def test_one_convolution_holds_its_blocked_input_and_output() -> None:
    plain = 32 * 40 * 40 * 4
    assert peak(conv(32, 40, 1)) == 2 * plain  # each with its copy: into blocks, then back
    assert peak(conv(32, 40, 5)) == 2 * plain


def test_channels_are_filled_up_to_whole_blocks() -> None:
    assert peak(conv(20, 40, 2)) == 2 * 32 * 40 * 40 * 4


def test_sessions_hold_no_block_for_a_whole_run() -> None:
    opened = Session(conv(8, 16, 1))
    assert not opened._session.get_session_options().enable_mem_pattern


def test_the_peak_grows_with_the_image() -> None:
    peaks = [peak(conv(16, size, 3)) for size in (10, 20, 40)]
    assert peaks == [peaks[0], 4 * peaks[0], 16 * peaks[0]]


def test_a_dead_tensor_serves_one_of_the_same_shape_by_the_names_that_the_model_has() -> None:
    """What waits for a later tensor of its shape is held at the peak between the two."""

    def taken(image: str, sides: str) -> int:
        model = nets.parse(
            f'<ir_version: 8, opset_import: ["": 13]> net (float[{image}] image) => (float[M,8,8] scores) '
            f"<int64[3] sides = {{{sides}}}, int64[3] wide = {{1, 40, 40}}, int64[3] small = {{1, 8, 8}}> {{ "
            "r = Reshape (image, sides) a = Transpose <perm = [0, 2, 1]> (r) "
            "f = ReduceMax <axes = [1, 2]> (a) b = Expand (f, wide) g = ReduceMax <axes = [1, 2]> (b) "
            "c = Expand (g, small) scores = Transpose <perm = [0, 2, 1]> (c) }"
        )
        return peak(model)

    largest, small, one = 40 * 40 * 4, 8 * 8 * 4, 4
    assert taken("N,8,8", "0, 8, 8") == largest + small + one
    assert taken("N,8,8", "-1, 8, 8") == largest + one  # no name: onnxruntime cannot tell


def test_activations_and_sums_write_over_what_they_read() -> None:
    with_more = conv(32, 40, 2)
    graph = with_more.graph
    graph.node.extend(
        [
            onnx.helper.make_node("Relu", ["x2"], ["r"]),
            onnx.helper.make_node("Flatten", ["r"], ["f"]),
            onnx.helper.make_node("Identity", ["f"], ["out"]),
        ]
    )
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None))
    assert peak(with_more) == peak(conv(32, 40, 2))


def test_inspect_prints_what_convert_would_hold() -> None:
    model = small_shapes.vgg()
    made = surgery.convert(model, exact=True, sizes=[(150, 180)])
    assert made.proto is not None
    said = next(note for note in made.notes if note.startswith("memory"))
    found = re.match(r"memory: ([\d.]+) MiB of activations at once", said)
    assert found
    assert float(found[1]) == pytest.approx(peak(made.proto) / 2**20, rel=0.06)


# ------------------------------------------------ measured


SHAPES = runpy.run_path(str(nets.FIXTURES.parent / "scripts" / "shapes.py"))
NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "vgg16": lambda: SHAPES["vgg16"](width=0.25),
    "resnet18": lambda: SHAPES["resnet18"](width=0.5),
    "resnet50": lambda: SHAPES["resnet50"](width=0.5),
    "mobilenet": lambda: SHAPES["mobilenet_se"](),
    "vit": lambda: SHAPES["vit_tiny"](width=0.5),
    "alexnet": lambda: SHAPES["alexnet"](width=0.5),
    "rnet": lambda: onnx.load(nets.FIXTURES / "rnet24.onnx"),
}
CASES = [
    ("vgg16", (320, 320), None),
    ("vgg16", (384, 384), (16, 16)),
    ("resnet18", (384, 384), None),
    ("resnet18", (288, 320), (16, 16)),
    ("resnet50", (352, 352), None),
    ("mobilenet", (384, 384), None),
    ("mobilenet", (384, 700), None),
    ("vit", (384, 384), None),
    ("vit", (576, 576), None),  # a loop
    ("alexnet", (500, 500), None),
    ("rnet", (300, 400), None),
    ("rnet", (300, 400), (2, 2)),
]


@pytest.mark.deep
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to set a peak back")
@pytest.mark.parametrize("share", [0, 1 / 3, 2 / 3, 1])
@pytest.mark.parametrize(("name", "size", "stride"), CASES)
def test_the_estimate_is_near_what_is_measured(
    name: str,
    size: tuple[int, int],
    stride: tuple[int, int] | None,
    share: float,
    tmp_path: Path,
) -> None:
    model = NETS[name]()
    last = next(cuts(model, size, stride, only=[0])).layout.candidates
    made = next(cuts(model, size, stride, only=[int(share * last)]))
    assert peak(made.proto) == pytest.approx(measured(made.proto, tmp_path), rel=WITHIN)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to set a peak back")
def test_the_estimate_of_a_small_net(tmp_path: Path) -> None:
    made = next(cuts(NETS["rnet"](), (300, 400), (4, 4), only=[-1]))
    assert peak(made.proto) == pytest.approx(measured(made.proto, tmp_path), rel=WITHIN)
