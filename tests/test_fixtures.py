"""The fixtures themselves: listed, and each with no weight that does nothing."""

from __future__ import annotations

import law
import nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper


def test_listing_of_the_fixtures_is_current() -> None:
    page = (nets.FIXTURES / "README.md").read_text()
    assert page == nets.with_listing(page), "run scripts/make_fixtures"


@pytest.mark.parametrize("name", nets.NAMES)
def test_every_weight_matters(name: str) -> None:
    """A fixture whose answer does not depend on a weight proves nothing about it."""
    model = nets.load(name)
    image = law.random_image(model, law.window_of(model))
    before = law.run(model, image)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if name == "arg_max" or values.dtype.kind != "f" or tensor.name in ("ratio", "high"):
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        target = next(t for t in changed.graph.initializer if t.name == tensor.name)
        target.CopyFrom(numpy_helper.from_array((values * 1.5 + 0.5).astype(values.dtype), tensor.name))
        after = law.run(changed, image)
        assert any(not np.allclose(after[o], before[o], atol=1e-6) for o in before), tensor.name
