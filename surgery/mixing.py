"""Whether a model answers for an image by the other images of its batch, and the op where it begins to."""

from __future__ import annotations

import numpy as np
import onnx

from surgery.errors import BadInput
from surgery.model import Model
from surgery.oracle import Arrays
from surgery.probes import relaxed, with_outputs
from surgery.session import Session, noise
from surgery.shapes import Facts, feeds_for


def first_mixing(model: Model, facts: Facts) -> onnx.NodeProto | None:
    """The first op of which the first image's part changes with the other images; None where none does.

    None, too, where the model runs on no second image.
    """
    graph = model.proto.graph
    names = [o for node in graph.node for o in node.output if o]
    proto = with_outputs(model.proto, names)
    count = max(2, facts.batch)
    try:
        session = Session(proto if facts.batch > 1 else relaxed(proto), for_proof=True)
        one, other = (session.run(_feeds(model, facts, count, seed)) for seed in (1, 16))
    except BadInput:
        return None
    for node in graph.node:
        if any(_differ(one, other, name, count) for name in node.output if name):
            return node
    return None


def _feeds(model: Model, facts: Facts, count: int, seed: int) -> Arrays:
    """A batch whose first image is always the same, and whose others follow from the seed, in size too."""
    shape = (count, *facts.shape[1:])
    feeds = feeds_for(model, model.image, shape)
    image = noise(shape, facts.dtype, seed)
    image = image * image.dtype.type(seed) if image.dtype.kind == "f" else image
    image[0] = noise(facts.shape[1:], facts.dtype, seed=0)
    return {**feeds, facts.image: image}


def _differ(one: Arrays, other: Arrays, name: str, count: int) -> bool:
    """Whether the first image's part of a tensor, which has one for each, is not the same in both runs."""
    a, b = one.get(name), other.get(name)
    if a is None or b is None or a.shape[:1] != (count,) or a.shape != b.shape:
        return False
    return not np.allclose(a[0], b[0], rtol=1e-3, atol=1e-4, equal_nan=True)
