"""Every bad request gets one clear paragraph on stderr, its exit code, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Run, run, tree
from nets import load, parse
from onnx import numpy_helper
from PIL import Image

FIXTURES = Path(__file__).parent.parent / "fixtures"
RNET = FIXTURES / "rnet25.onnx"
HEADER = '<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>\n'

Try = Callable[..., Run]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; temporary files would show up in it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def attempt(folder: Path, capsys: pytest.CaptureFixture[str]) -> Try:
    """Run a command that must fail: one paragraph on stderr, nothing on stdout, the disk as it was."""

    def failing(*args: object) -> Run:
        before = tree(folder)
        done = run(capsys, *args)
        assert done.code in (2, 3, 4), done
        assert done.out == ""
        assert re.fullmatch(r"surgery: [^\n]+\n", done.err), "one paragraph"
        assert "Traceback" not in done.err
        assert tree(folder) == before, "something was left behind"
        return done

    return failing


def saved(folder: Path, text: str, name: str = "net.onnx") -> Path:
    onnx.save(parse(HEADER + text), folder / name)
    return folder / name


def expect(done: Run, code: int, *words: str) -> None:
    assert done.code == code, done.err
    assert [w for w in words if w not in done.err] == [], done.err


# ------------------------------------------------------------------ files that are no model


@pytest.mark.parametrize("content", [b"hello, world", b"\x89PNG\r\n\x1a\n" + b"\0" * 64, b"\xff" * 9])
def test_not_a_model(folder: Path, attempt: Try, content: bytes) -> None:
    path = folder / "net.onnx"
    path.write_bytes(content)
    expect(attempt("convert", path, "-o", folder / "out.onnx"), 2, str(path), "is not an ONNX model")
    expect(attempt("inspect", path, "--json"), 2, "is not an ONNX model")


def test_an_empty_file(folder: Path, attempt: Try) -> None:
    path = folder / "net.onnx"
    path.touch()
    expect(attempt("convert", path, "-o", folder / "out.onnx"), 2, "holds no graph")


def test_no_file_and_a_folder(folder: Path, attempt: Try) -> None:
    expect(attempt("inspect", folder / "no.onnx"), 2, "cannot read", "No such file or directory")
    expect(attempt("inspect", folder), 2, "cannot read", "Is a directory")


def test_a_protobuf_cut_short_anywhere(folder: Path, attempt: Try) -> None:
    blob, path = RNET.read_bytes(), folder / "net.onnx"
    places = np.random.default_rng(0).integers(1, len(blob), 30).tolist()
    for length in [1, 2, 3, *places, *range(len(blob) - 12, len(blob))]:
        path.write_bytes(blob[:length])
        done = attempt("convert", path, "-o", folder / "out.onnx")
        assert done.code == 2, (length, done.err)
        assert re.search(r"is cut short|holds no graph|names no opset", done.err), (length, done.err)


# ------------------------------------------------------------------ external data


def external(folder: Path, location: str) -> Path:
    """A model whose weights are said to lie at `location`."""
    path = folder / "in" / "net.onnx"
    path.parent.mkdir()
    onnx.save(onnx.load(RNET), path, save_as_external_data=True, location="net.data", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_that_are_missing(folder: Path, attempt: Try) -> None:
    path = external(folder, "gone.data")
    words = ("external data", str(path), "gone.data", "copy it there")
    expect(attempt("convert", path, "-o", folder / "out.onnx"), 2, *words)


def test_external_data_cut_short(folder: Path, attempt: Try) -> None:
    path = external(folder, "net.data")
    data = path.with_name("net.data")
    data.write_bytes(data.read_bytes()[:1000])
    expect(attempt("convert", path, "-o", folder / "out.onnx"), 2, "external data", str(path))


@pytest.mark.parametrize("place", ["../net.data", "{folder}/net.data", "link.data", "sub/../../net.data"])
def test_external_data_that_leave_the_folder(folder: Path, attempt: Try, place: str) -> None:
    path = external(folder, place.format(folder=folder))
    path.with_name("net.data").rename(folder / "net.data")
    (path.parent / "sub").mkdir()
    (path.parent / "link.data").symlink_to(folder / "net.data")
    words = ("external data", "must lie in the model's own folder")
    expect(attempt("convert", path, "-o", folder / "out.onnx"), 2, *words)


# ------------------------------------------------------------------ models that cannot be converted


def test_no_image_input(folder: Path, attempt: Try) -> None:
    text = "g (float[1,8] x) => (float[1,5] y) <float[5,8] v> { y = Gemm<transB=1>(x, v) }"
    done = attempt("convert", saved(folder, text), "-o", folder / "out.onnx")
    expect(done, 3, "has no image input", "'x' [1, 8]", "rank 3, 4 or 5")


def test_two_image_inputs(folder: Path, attempt: Try) -> None:
    text = """g (float[1,3,8,8] a, float[1,3,8,8] b) => (float[1,5] y) <float[5,192] v> {
        c = Add(a, b)  f = Flatten(c)  y = Gemm<transB=1>(f, v) }"""
    done = attempt("convert", saved(folder, text), "-o", folder / "out.onnx")
    expect(done, 3, "has 2 image inputs", "'a' [1, 3, 8, 8]", "'b' [1, 3, 8, 8]", "exactly one")


def test_an_op_of_an_unknown_domain_in_the_head(folder: Path, attempt: Try) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,5] y) <float[5,192] v> {
        f = Flatten(x)  [odd] h = my.ops.Fancy(f)  y = Gemm<transB=1>(h, v) }"""
    onnx.save(parse(HEADER + text), folder / "net.onnx")
    done = attempt("convert", folder / "net.onnx", "-o", folder / "out.onnx")
    expect(done, 3, "Fancy 'odd'", "domain 'my.ops'", "Replace it by standard ops")


def test_nothing_to_convert(folder: Path, attempt: Try) -> None:
    done = attempt("convert", FIXTURES / "pnet12.onnx", "-o", folder / "out.onnx")
    expect(done, 3, "nothing to convert", "already fully convolutional")


def test_a_net_that_mixes_the_whole_image(folder: Path, attempt: Try) -> None:
    onnx.save(load("gate"), folder / "net.onnx")
    done = attempt("convert", folder / "net.onnx", "-o", folder / "out.onnx")
    expect(done, 3, "verdict global", "--allow-global", "--exact")


def test_a_net_that_draws_random_numbers(folder: Path, attempt: Try) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,5] y) <float[5,192] v> {
        [dice] r = RandomNormalLike(x)  s = Add(x, r)  f = Flatten(s)  y = Gemm<transB=1>(f, v) }"""
    done = attempt("convert", saved(folder, text), "-o", folder / "out.onnx")
    expect(done, 3, "RandomNormalLike 'dice'", "random numbers")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(folder: Path, attempt: Try, value: float) -> None:
    proto = onnx.load(RNET)
    gemm = next(n for n in proto.graph.node if n.op_type == "Gemm")
    tensor = next(t for t in proto.graph.initializer if t.name == gemm.input[1])
    values = numpy_helper.to_array(tensor).copy()
    values.flat[[3, 5]] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, folder / "net.onnx")
    done = attempt("convert", folder / "net.onnx", "-o", folder / "out.onnx")
    expect(done, 2, tensor.name, f"Gemm {gemm.name!r}", "2 NaN or infinite values")


def test_a_window_that_is_open_or_other_than_the_models(folder: Path, attempt: Try) -> None:
    proto = load("plain")
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(proto, folder / "net.onnx")
    expect(attempt("inspect", folder / "net.onnx"), 2, "leaves its size open", "--window HxW")
    expect(attempt("inspect", RNET, "--window", "30x30"), 2, "fixes its window at 25, not 30")
    expect(attempt("inspect", RNET, "--window", "30"), 2, "has 1 sides, the image 2")


# ------------------------------------------------------------------ names and options of the other commands


def test_a_parameter_that_is_not_there(folder: Path, attempt: Try) -> None:
    out = ["-o", folder / "out.onnx"]
    near = "the nearest names are '/b/l/l.0/Gemm.bias'"
    expect(attempt("params", "get", RNET, "/b/l/l.0/Gem.bias"), 2, "no parameter", near)
    expect(attempt("params", "scale", RNET, "/b/l/l.0/Gem.bias", "--factor", 2, *out), 2, near)
    done = attempt("params", "set", RNET, "/b/l/l.0/Gemm=1", *out)
    expect(done, 2, "has several parameters; give one of /b/l/l.0/Gemm.weight, /b/l/l.0/Gemm.bias")


def test_values_that_do_not_fit(folder: Path, attempt: Try) -> None:
    np.save(folder / "five.npy", np.zeros(5, np.float32))
    (folder / "text.npy").write_text("no array")
    for value, words in (
        (folder / "five.npy", "has shape [4], the value [5]"),
        (folder / "text.npy", "is neither a number nor a readable .npy or .npz file"),
        ("nothing", "is neither a number nor a readable .npy or .npz file"),
    ):
        done = attempt("params", "set", RNET, f"/b/l/l.0/Gemm.bias={value}", "-o", folder / "out.onnx")
        expect(done, 2, words)


def test_parameters_are_never_written_over_their_own_model(folder: Path, attempt: Try) -> None:
    source = Path(shutil.copy(RNET, folder / "net.onnx"))
    args = ["/b/l/l.0/Gemm.bias=0", "-o", source, "--force"]
    expect(attempt("params", "set", source, *args), 2, "is the input itself")


def test_a_matrix_over_the_guard_and_a_node_that_is_not_there(folder: Path, attempt: Try) -> None:
    out = ["-o", folder / "out.onnx"]
    expect(attempt("to-fc", RNET, *out, "--max-bytes", 1000), 3, "14812 rows x 1875 columns", "--max-bytes")
    expect(attempt("to-fc", RNET, *out, "--nodes", "conv"), 2, "has no node 'conv'", "the nearest names")


def test_a_scan_with_what_was_not_converted(folder: Path, attempt: Try) -> None:
    photo = FIXTURES / "chelsea.png"
    expect(attempt("scan", RNET, photo, "-o", folder / "out"), 2, str(RNET), "surgery convert")
    expect(attempt("classify", RNET, photo), 2, str(RNET), "surgery convert")
    expect(attempt("validate", RNET, folder / "no.onnx"), 2, "cannot read", "no.onnx")
    expect(attempt("validate", RNET, RNET, "--image", RNET), 2, "is not an image")


# ------------------------------------------------------------------ sizes and proofs


def test_an_image_smaller_than_the_window(folder: Path, attempt: Try) -> None:
    done = attempt("convert", RNET, "-o", folder / "out.onnx", "--size", "24x40")
    expect(done, 2, "an image of 24x40 is smaller than the window of 25x25")


def test_a_picture_smaller_than_the_window(
    folder: Path, attempt: Try, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "convert", RNET, "-o", folder / "map.onnx").code == 0
    Image.new("RGB", (20, 60)).save(folder / "small.png")
    done = attempt("scan", folder / "map.onnx", folder / "small.png", "-o", folder / "out")
    expect(done, 2, "small.png", "60x20", "25x25", "smaller than the window")


def test_a_size_of_another_rank(folder: Path, attempt: Try) -> None:
    done = attempt("convert", RNET, "-o", folder / "out.onnx", "--size", "40")
    expect(done, 2, "has 1 sides, the window 2")


def test_a_proof_that_fails(folder: Path, attempt: Try) -> None:
    done = attempt("convert", RNET, "-o", folder / "out.onnx", "--tolerance", "1e-12")
    expect(done, 4, "the proof failed", "against the tolerance 1e-12", "Nothing was written")


# ------------------------------------------------------------------ where to write


def as_itself(path: Path) -> Path:
    return path


def as_symlink(path: Path) -> Path:
    path.with_name("out.onnx").symlink_to(path)
    return path.with_name("out.onnx")


def as_hardlink(path: Path) -> Path:
    path.with_name("out.onnx").hardlink_to(path)
    return path.with_name("out.onnx")


def by_another_road(path: Path) -> Path:
    (path.parent / "sub").mkdir()
    return path.parent / "sub" / ".." / path.name


@pytest.mark.parametrize("name", [as_itself, as_symlink, as_hardlink, by_another_road])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_input_is_never_the_output(
    folder: Path, attempt: Try, name: Callable[[Path], Path], force: list[str]
) -> None:
    source = Path(shutil.copy(RNET, folder / "net.onnx"))
    done = attempt("convert", source, "-o", name(source), *force)
    expect(done, 2, "is the input itself, which is never changed")


def test_an_existing_file_stays_without_force(
    folder: Path, attempt: Try, capsys: pytest.CaptureFixture[str]
) -> None:
    target = folder / "out.onnx"
    target.write_bytes(b"precious")
    expect(attempt("convert", RNET, "-o", target), 2, str(target), "exists already", "--force")
    assert run(capsys, "convert", RNET, "-o", target, "--force").code == 0
    onnx.checker.check_model(target, full_check=True)
    assert [p.name for p in folder.iterdir() if p.name != "tmp"] == ["out.onnx"]


def test_weights_beside_the_output_are_not_overwritten_either(
    folder: Path, attempt: Try, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = external(folder, "net.data"), folder / "out.onnx"
    target.with_name("out.onnx.data").write_bytes(b"precious")
    done = attempt("convert", source, "-o", target)
    expect(done, 2, "out.onnx.data exists already", "--force")
    assert run(capsys, "convert", source, "-o", target, "--force").code == 0
    onnx.checker.check_model(target, full_check=True)


def test_a_failed_proof_keeps_the_file_it_would_replace(folder: Path, attempt: Try) -> None:
    (folder / "out.onnx").write_bytes(b"precious")
    args = ["-o", folder / "out.onnx", "--force", "--tolerance", "1e-12"]
    expect(attempt("convert", RNET, *args), 4, "the proof failed")


def test_places_that_cannot_be_written(folder: Path, attempt: Try) -> None:
    (folder / "file").touch()
    (folder / "dir").mkdir()
    place = folder / "file" / "out.onnx"
    expect(attempt("convert", RNET, "-o", place), 2, str(place), "cannot write")
    expect(attempt("convert", RNET, "-o", folder / "no" / "out.onnx"), 2, "there is no folder")
    expect(attempt("convert", RNET, "-o", folder / "dir", "--force"), 2, str(folder / "dir"), "is a folder")
    expect(attempt("convert", RNET, "-o", folder / ("n" * 300)), 2, "cannot write", "too long")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody can write")
def test_a_folder_that_nobody_can_write(attempt: Try) -> None:
    expect(attempt("convert", RNET, "-o", "/proc/self/out.onnx"), 2, "cannot write", "/proc/self")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_to_write(folder: Path, attempt: Try) -> None:
    (folder / "locked").mkdir(mode=0o555)
    done = attempt("convert", RNET, "-o", folder / "locked" / "out.onnx")
    expect(done, 2, "cannot write", "no permission")


@pytest.mark.parametrize("beside", [False, True], ids=["one file", "external data"])
def test_a_full_disk_leaves_no_partial_file(folder: Path, beside: bool) -> None:
    source = external(folder, "net.data") if beside else RNET
    (folder / "out.onnx").write_bytes(b"precious")
    before = tree(folder)
    done = subprocess.run(
        [sys.executable, "-m", "surgery", "convert", source, "-o", folder / "out.onnx", "--force"],
        capture_output=True,
        text=True,
        cwd=FIXTURES.parent,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "ORT_DISABLE_TELEMETRY": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"surgery: cannot write in [^\n]+ Nothing was left\.\n", done.stderr)
    assert tree(folder) == before
