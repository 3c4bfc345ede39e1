"""Files as they go out: whole or not at all, and nothing overwritten unasked."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from surgery.errors import BadInput
from surgery.session import serialized


def check_target(path: Path, *sources: Path | None, force: bool = False, external: bool = False) -> None:
    """Raise BadInput where `path` may not be written: an input, or an existing file without `force`.

    With `external` the weights will go to `<name>.data`, which is looked at as well.
    """
    try:
        is_input = any(s is not None and path.exists() and s.exists() and path.samefile(s) for s in sources)
        is_folder, has_folder = path.is_dir(), path.parent.is_dir()
        files = [path, path.with_name(f"{path.name}.data")] if external else [path]
        there = next((file for file in files if file.exists()), None)
    except OSError as error:  # a name too long, a folder that may not be entered
        raise BadInput(f"cannot write {path}: {error.strerror or error}.") from error
    if is_input:
        raise BadInput(f"the output {path} is the input itself, which is never changed; give another path.")
    if is_folder:
        raise BadInput(f"cannot write {path}: it is a folder; give the name of a file.")
    if there and not force:
        raise BadInput(f"{there} exists already; give another path, or --force to replace it.")
    if not has_folder:
        raise BadInput(f"cannot write {path}: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"cannot write {path}: no permission to write in {path.parent}.")


def save(proto: onnx.ModelProto, path: Path, *, external: bool = False) -> None:
    """Write a model so that it appears whole or not at all (written beside its place, then renamed).

    With `external`, or beyond protobuf's 2 GiB, the weights go to `<name>.data` in the same folder.
    Raises BadInput where the folder cannot be written or the disk is full; nothing is left then.
    """
    with staged(path.parent) as stage:
        blob = None if external else serialized(proto)
        if blob is None:
            copy = onnx.ModelProto()
            copy.CopyFrom(proto)
            data = f"{path.name}.data"
            onnx.save(copy, str(stage / path.name), save_as_external_data=True, location=data)
        else:
            (stage / path.name).write_bytes(blob)
        move_into(stage, path.parent)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside the final one to write into; it is gone afterwards, whatever happens."""
    try:
        stage = Path(tempfile.mkdtemp(prefix=".surgery-", dir=folder))
    except OSError as error:
        raise BadInput(f"cannot write in {folder}: {error.strerror or error}.") from error
    try:
        yield stage
    except OSError as error:
        raise BadInput(f"cannot write in {folder}: {error.strerror or error}. Nothing was left.") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def move_into(stage: Path, folder: Path) -> None:
    """Flush every file of the stage to the disk and rename it into the folder, data before models.

    All are as readable as any new file of this user: onnx keeps weights beside a model to their owner.
    """
    files = sorted(stage.iterdir(), key=lambda f: f.suffix == ".onnx")
    new = stage / "new"
    new.touch()
    for file in files:
        file.chmod(new.stat().st_mode)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(file, folder / file.name)
