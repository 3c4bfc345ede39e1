"""The commands print what the API returns, with the exit codes, flags and JSON keys of the design."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from command import run
from law import run as run_model
from nets import load

import surgery
from surgery import matrix
from surgery.cli import main
from surgery.proof import TOLERANCE

ROOT = Path(__file__).parent.parent
PADDED = ROOT / "fixtures" / "rnet24.onnx"
EXACT = ROOT / "fixtures" / "rnet25.onnx"
MAPPED = ROOT / "fixtures" / "pnet12.onnx"

Capture = pytest.CaptureFixture[str]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command with its path, those of sub-groups too."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        found[(*path, name)] = command
        if isinstance(command, click.Group):
            found |= commands(command, (*path, name))
    return found


COMMANDS = commands(main)
RUNNABLE = {path: c for path, c in COMMANDS.items() if not isinstance(c, click.Group)}


# ------------------------------------------------------------------ every command


def test_help_and_version_import_nothing_heavy() -> None:
    code = """
import sys
from surgery.cli import main
for args in ["--help"], ["--version"], ["convert", "--help"]:
    try:
        main(args, prog_name="surgery")
    except SystemExit as end:
        assert end.code == 0
heavy = {"onnx", "onnxruntime", "onnx_graphsurgeon", "numpy", "google.protobuf", "scipy", "PIL", "rich"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_every_command_has_help(path: tuple[str, ...], capsys: Capture) -> None:
    done = run(capsys, *path, "--help")
    assert done.code == 0
    silent = [p.name for p in COMMANDS[path].params if isinstance(p, click.Option) and not p.help]
    assert silent == []
    assert COMMANDS[path].get_short_help_str(60).endswith("."), "the first sentence fits the list"


@pytest.mark.parametrize("path", RUNNABLE, ids="-".join)
def test_every_command_speaks_json(path: tuple[str, ...]) -> None:
    assert "--json" in {o for p in RUNNABLE[path].params for o in p.opts}


@pytest.mark.parametrize("path", RUNNABLE, ids="-".join)
def test_every_command_is_documented(path: tuple[str, ...]) -> None:
    assert f"surgery {' '.join(path)}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_module_is_the_command(capsys: Capture) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "surgery", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"surgery, version {surgery.__version__}\n")
    assert run(capsys, "--version").out == done.stdout


# ------------------------------------------------------------------ inspect, convert, validate, ops


def test_inspect_prints_what_the_api_returns(capsys: Capture) -> None:
    result = surgery.inspect(PADDED)
    assert run(capsys, "inspect", PADDED).out == f"{result}\n"
    done = run(capsys, "inspect", PADDED, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == result.to_dict()


def test_inspect_of_a_refused_model_reports_and_exits_3(capsys: Capture) -> None:
    done = run(capsys, "inspect", MAPPED)
    assert (done.code, done.err) == (3, "")
    assert "verdict     refused" in done.out
    done = run(capsys, "inspect", MAPPED, "--json")
    assert (done.code, json.loads(done.out)["verdict"]) == (3, "refused")


def test_convert_writes_a_model_that_runs_at_any_size(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "map.onnx"
    done = run(capsys, "convert", EXACT, "-o", target, "--size", "41x33", "--size", "60x25", "--json")
    data = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert (data["output"], data["verdict"], data["proof"]["passed"]) == (str(target), "exact", True)
    assert sorted({tuple(c["size"]) for c in data["proof"]["checks"]}) == [(41, 33), (60, 25)]
    image = np.zeros((2, 3, 37, 49), np.float32)
    assert {v.shape for v in run_model(onnx.load(target), image).values()} == {(2, 2, 4, 7), (2, 4, 4, 7)}


def test_convert_passes_its_flags_on(tmp_path: Path, capsys: Capture) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 36, 39), np.float32)

    def converted(*flags: str) -> dict[str, np.ndarray]:
        done = run(capsys, "convert", EXACT, "-o", tmp_path / "map.onnx", "--force", *flags)
        assert done.code == 0, done.err
        return run_model(onnx.load(tmp_path / "map.onnx"), image)

    full, trimmed = converted(), converted("--trim")
    assert (full["44"].shape, trimmed["44"].shape) == ((1, 2, 4, 5), (1, 2, 3, 4))
    np.testing.assert_allclose(full["44"][:, :, :3, :4], trimmed["44"], atol=1e-6)
    np.testing.assert_allclose(converted("--reduce", "mean")["44"], trimmed["44"].mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(converted("--reduce", "max")["44"], trimmed["44"].max((2, 3)), atol=1e-5)


def test_convert_of_a_net_that_mixes_the_image_is_asked_for(tmp_path: Path, capsys: Capture) -> None:
    onnx.save(load("gate"), tmp_path / "net.onnx")
    args = ["convert", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx"]
    assert run(capsys, *args).code == 3
    done = run(capsys, *args, "--allow-global")
    assert done.code == 0
    assert "an op of the trunk sees the whole image" in " ".join(done.out.split())


def test_the_window_of_an_open_model_is_given(tmp_path: Path, capsys: Capture) -> None:
    proto = onnx.load(EXACT)
    for axis, name in ((2, "h"), (3, "w")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(proto, tmp_path / "open.onnx")
    done = run(capsys, "inspect", tmp_path / "open.onnx", "--window", "25x25", "--json")
    assert (done.code, json.loads(done.out)["geometry"]) == (0, surgery.inspect(EXACT).to_dict()["geometry"])


def test_validate_says_whether_the_proof_passed(tmp_path: Path, capsys: Capture) -> None:
    assert run(capsys, "convert", PADDED, "-o", tmp_path / "map.onnx").code == 0
    args = ["validate", PADDED, tmp_path / "map.onnx", "--size", "33x47", "--crops", "5"]
    done = run(capsys, *args, "--json")
    data = json.loads(done.out)
    assert (done.code, done.err, data["passed"]) == (0, "", True)
    assert {c["name"]: c["positions"] for c in data["checks"]}["crops"] == 5
    assert "Proven: every score equals the original head" in " ".join(run(capsys, *args).out.split())


def test_validate_of_another_net_exits_4_and_prints_its_proof(tmp_path: Path, capsys: Capture) -> None:
    wrong = onnx.load(PADDED)
    bias = next(t for t in wrong.graph.initializer if t.name == wrong.graph.node[-2].input[2])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    assert run(capsys, "convert", tmp_path / "wrong.onnx", "-o", tmp_path / "map.onnx").code == 0
    done = run(capsys, "validate", PADDED, tmp_path / "map.onnx", "--json")
    assert (done.code, json.loads(done.out)["passed"]) == (4, False)
    assert "NOT proven" in run(capsys, "validate", PADDED, tmp_path / "map.onnx").out


def test_ops_prints_the_matrix_in_three_forms(capsys: Capture) -> None:
    rows = matrix.rows()
    assert run(capsys, "ops").out == matrix.to_text(rows) + "\n"
    assert run(capsys, "ops", "--markdown").out == matrix.to_markdown(rows) + "\n"
    data = json.loads(run(capsys, "ops", "--json").out)
    assert [entry["op"] for entry in data["ops"]] == [row.op for row in rows]


# ------------------------------------------------------------------ scan, classify, params, to-fc


@pytest.fixture(scope="module")
def score_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model."""
    path = tmp_path_factory.mktemp("converted") / "map.onnx"
    surgery.convert(EXACT, path)
    return path


FEED = ["--input-range=-1,1", "--channels", "RGB", "--output", "44"]
PHOTOS = [ROOT / "fixtures" / name for name in ("astronaut.png", "chelsea.png")]


def test_scan_prints_and_writes_what_the_api_returns(
    score_map: Path, tmp_path: Path, capsys: Capture
) -> None:
    args = ["scan", score_map, *PHOTOS, "-o", tmp_path / "out", "--scale", "128px", "--class", 1, *FEED]
    done = run(capsys, *args, "--top", "3", "--json")
    assert (done.code, done.err) == (0, "")
    data = json.loads(done.out)
    for photo, report in zip(PHOTOS, data["images"], strict=True):
        want = surgery.scan(
            score_map, photo, scales=["128px"], input_range=(-1, 1), label=1, output="44", top=3
        )
        files = report.pop("files")
        assert report == want.to_dict()
        assert {Path(f).name for f in files} == {f"{photo.stem}.{end}" for end in ("npy", "png", "json")}
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{photo.stem}.npy"), want.maps[0].scores)
    done = run(capsys, *args, "--force")
    assert all(str(photo) in done.out for photo in PHOTOS)


def test_classify_prints_what_the_api_returns(score_map: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "names.txt").write_text("nobody\na face\n")
    args = ["classify", score_map, *PHOTOS, "--scales", "92,128", "--flip", "--topk", "1", *FEED]
    done = run(capsys, *args, "--labels", tmp_path / "names.txt", "--json")
    assert (done.code, done.err) == (0, "")
    for photo, report in zip(PHOTOS, json.loads(done.out)["images"], strict=True):
        want = surgery.evaluate(
            score_map,
            photo,
            scales=[92, 128],
            flip=True,
            topk=1,
            input_range=(-1, 1),
            output="44",
            labels=["nobody", "a face"],
        )
        assert report == want.to_dict() | {"files": []}
    assert "nobody" in run(capsys, *args, "--labels", tmp_path / "names.txt").out


BIAS = "/b/l/l.0/Gemm.bias"


def bias_of(path: Path) -> np.ndarray:
    model = onnx.load(path)
    name = next(n.input[2] for n in model.graph.node if n.name == "/b/l/l.0/Gemm")
    return onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def test_params_edits_a_copy_by_name(tmp_path: Path, capsys: Capture) -> None:
    listed = json.loads(run(capsys, "params", "list", EXACT, "--json").out)
    names = [f"{row['name']}.{row['parameter']}" for row in listed["parameters"]]
    assert BIAS in names
    shown = run(capsys, "params", "list", EXACT).out
    assert [row["name"] for row in listed["parameters"] if row["name"] not in shown] == []
    old, out = bias_of(EXACT), tmp_path / "out.onnx"
    got = json.loads(run(capsys, "params", "get", EXACT, BIAS, "--json").out)
    np.testing.assert_array_equal(np.float32(got["parameters"][0]["values"]), old)

    assert run(capsys, "params", "set", EXACT, f"{BIAS}=0.5", "-o", out).code == 0
    np.testing.assert_array_equal(bias_of(out), np.full(4, 0.5, np.float32))
    assert run(capsys, "params", "scale", EXACT, BIAS, "--factor", "-2", "-o", out, "--force").code == 0
    np.testing.assert_allclose(bias_of(out), -2 * old, rtol=1e-6)
    assert run(capsys, "params", "get", out, BIAS, "-o", tmp_path / "bias.npy").code == 0
    again = ["params", "set", EXACT, f"{BIAS}={tmp_path / 'bias.npy'}", "-o", tmp_path / "again.onnx"]
    assert run(capsys, *again).code == 0
    np.testing.assert_array_equal(bias_of(tmp_path / "again.onnx"), bias_of(out))


def test_params_copies_between_models(tmp_path: Path, capsys: Capture) -> None:
    edited, back = tmp_path / "edited.onnx", tmp_path / "back.onnx"
    assert run(capsys, "params", "set", EXACT, f"{BIAS}=9", "-o", edited).code == 0
    done = run(capsys, "params", "copy", edited, EXACT, "--map", f"{BIAS}={BIAS}", "-o", back, "--json")
    assert (done.code, json.loads(done.out)["copied"]) == (0, 1)
    np.testing.assert_array_equal(bias_of(back), bias_of(EXACT))


def test_to_fc_writes_a_model_that_answers_alike(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "fc.onnx"
    done = run(capsys, "to-fc", EXACT, "-o", out, "--nodes", "/t/l/l.6/Conv,/t/l/l.3/Conv", "--json")
    data = json.loads(done.out)
    assert (done.code, done.err, data["output"]) == (0, "", str(out))
    assert [n["node"] for n in data["nodes"]] == ["/t/l/l.3/Conv", "/t/l/l.6/Conv"]
    image = np.random.default_rng(0).standard_normal((1, 3, 25, 25), np.float32)
    got, want = run_model(onnx.load(out), image), run_model(onnx.load(EXACT), image)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5)


# ------------------------------------------------------------------ usage


def test_the_default_tolerance_is_the_apis() -> None:
    for command in (COMMANDS["convert",], COMMANDS["validate",]):
        option = next(p for p in command.params if p.name == "tolerance")
        assert option.get_default(click.Context(command)) != TOLERANCE  # the API chooses
        assert f"default: {TOLERANCE:.0e}".replace("e-04", "e-4") in str(getattr(option, "help", ""))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["convert", EXACT], "Missing option '-o' / '--output'"),
        (["convert", EXACT, "-o", "x", "--reduce", "median"], "'median' is not one of 'mean', 'max'"),
        (["convert", EXACT, "-o", "x", "--size", "0x30"], "'0x30' is no size; write HxW in pixels"),
        (["convert", EXACT, "-o", "x", "--size", "1x2x3x4"], "'1x2x3x4' is no size"),
        (["convert", EXACT, "-o", "x", "--size", "-3"], "'-3' is no size"),
        (["convert", EXACT, "-o", "x", "--tolerance", "0"], "0.0 is not in the range x>0"),
        (["validate", EXACT, EXACT, "--crops", "0"], "'0' is neither 'all' nor a number from 1 on"),
        (["params", "set", EXACT, "bias", "-o", "x"], "'bias' is no pair; write NAME=VALUE"),
        (["scan", EXACT, EXACT, "-o", "x", "--mean", "1,b"], "'1,b' is no list of numbers"),
        (["inspect"], "Missing argument 'MODEL'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_usage_exits_2(args: list[object], words: str, capsys: Capture) -> None:
    done = run(capsys, *args)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("surgery.inspect", broken, raising=False)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["inspect", str(EXACT)], prog_name="surgery")


def test_progress_is_shown_on_a_terminal_and_only_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "surgery", "convert", EXACT, "-o", tmp_path / "map.onnx", "--json"]
    reader, writer = pty.openpty()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=writer) as process:
        os.close(writer)
        shown = drained(reader)
        out, _ = process.communicate()
    assert json.loads(out)["proof"]["passed"]
    assert "writing" in shown
    quiet = subprocess.run([*command, "--force"], cwd=ROOT, capture_output=True, check=True)
    assert quiet.stderr == b""


def drained(reader: int) -> str:
    """What is written to a terminal until its last writer closes it."""
    parts = []
    try:
        while part := os.read(reader, 4096):
            parts.append(part)
    except OSError:  # Linux reports the end of a terminal as an error
        pass
    finally:
        os.close(reader)
    return b"".join(parts).decode()
