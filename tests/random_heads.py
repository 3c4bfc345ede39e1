"""Heads drawn by hypothesis over the map of a random trunk."""

from __future__ import annotations

from math import prod

from hypothesis import strategies as st
from random_nets import Draw, Trunk, trunks

# ------------------------------------------------ how a map becomes features


def flatten(draw: Draw, net: Trunk) -> int:
    """Flatten or Reshape, with the dims in any order."""
    order = draw(st.permutations([1, 2, 3]))
    if order != [1, 2, 3]:
        net.last = net.emit(f"Transpose <perm = {[0, *order]}>", net.last)
    way = draw(st.sampled_from(["Flatten", "1, -1", "0, -1", "chain"]))
    if way == "Flatten":
        net.last = net.emit("Flatten", net.last)
    elif way == "chain":  # as torch exports view(x.size(0), -1)
        shape = net.emit("Shape", net.last)
        batch = net.emit("Gather <axis = 0>", shape, net.constant("int64[1]", "0"))
        net.last = net.emit(
            "Reshape", net.last, net.emit("Concat <axis = 0>", batch, net.constant("int64[1]", "-1"))
        )
    else:
        net.last = net.emit("Reshape", net.last, net.constant("int64[2]", way))
    return int(net.channels * prod(net.cells))


def pool_all(draw: Draw, net: Trunk) -> int:
    """A global pool, or a reduction, or a pool as large as the map; perhaps a 1x1 Conv behind it."""
    way = draw(
        st.sampled_from(["GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "AveragePool"])
    )
    if way.startswith("Reduce"):
        net.last = net.emit(f"{way} <axes = [2, 3], keepdims = {draw(st.integers(0, 1))}>", net.last)
    elif way == "AveragePool":
        net.last = net.emit(f"AveragePool <kernel_shape = {list(net.cells)}>", net.last)
    else:
        net.last = net.emit(way, net.last)
    if not way.startswith("Reduce") and draw(st.booleans()):
        net.last = net.emit("Conv", net.last, net.weight(4, net.channels, 1, 1), net.weight(4))
        net.channels = 4
    net.last = net.emit("Flatten", net.last)
    return net.channels


# ------------------------------------------------ what follows, features to features


def gemm(draw: Draw, net: Trunk, features: int) -> int:
    """A Gemm with any of its settings."""
    out, turned = int(draw(st.integers(2, 6))), draw(st.integers(0, 1))
    matrix = net.weight(*((out, features) if turned else (features, out)))
    bias = draw(st.sampled_from([(), ((out,),), ((1, out),), ((1,),)]))
    alpha, beta = draw(st.sampled_from([(1.0, 1.0), (0.5, 1.0), (1.0, 3.0)]))
    attrs = f"<alpha = {alpha}, beta = {beta}, transB = {turned}>"
    net.last = net.emit(f"Gemm {attrs}", net.last, matrix, *(net.weight(*shape) for shape in bias))
    return out


def matmul(draw: Draw, net: Trunk, features: int) -> int:
    """A MatMul, with or without an Add behind it."""
    out = int(draw(st.integers(2, 6)))
    net.last = net.emit("MatMul", net.last, net.weight(features, out))
    if draw(st.booleans()):
        net.last = net.emit("Add", net.last, net.weight(out))
    return out


def activate(draw: Draw, net: Trunk, features: int) -> int:
    """An activation, per feature or for all alike."""
    op = draw(st.sampled_from(["Relu", "Tanh", "Sigmoid", "PRelu", "Dropout", "Neg"]))
    net.last = net.emit(op, net.last, *([net.weight(features)] if op == "PRelu" else []))
    return features


def scale(draw: Draw, net: Trunk, features: int) -> int:
    """Arithmetic with a vector over the features, from either side."""
    op = draw(st.sampled_from(["Mul", "Add", "Sub"]))
    sides = [net.last, net.weight(features)]
    net.last = net.emit(op, *(reversed(sides) if draw(st.booleans()) else sides))
    return features


def normalise(draw: Draw, net: Trunk, features: int) -> int:
    """A BatchNormalization over the features."""
    net.last = net.emit("BatchNormalization", net.last, *(net.weight(features) for _ in range(4)))
    return features


def fork(draw: Draw, net: Trunk, features: int) -> int:
    """Two Gemms side by side, joined."""
    start = net.last
    first = gemm(draw, net, features)
    left, net.last = net.last, start
    second = matmul(draw, net, features)
    net.last = net.emit("Concat <axis = -1>", left, net.last)
    return first + second


def cut(draw: Draw, net: Trunk, features: int) -> int:
    """The features without the first, backwards or not."""
    if features < 3:
        return features
    places = list(range(1, features))
    if draw(st.booleans()):
        places.reverse()
    indices = net.constant(f"int64[{len(places)}]", ", ".join(map(str, places)))
    net.last = net.emit("Gather <axis = 1>", net.last, indices)
    return len(places)


FIRST = (flatten, pool_all)
LATER = (gemm, activate, matmul, scale, normalise, fork, cut)


@st.composite
def networks(draw: Draw, *, pads: bool = True, ceil: bool = True) -> Trunk:
    """A trunk, its map made features, up to four ops on them, a matrix, perhaps a softmax."""
    net: Trunk = draw(trunks(pads=pads, ceil=ceil, least=1))
    features = FIRST[draw(st.integers(0, 1))](draw, net)
    for _ in range(draw(st.integers(0, 4))):
        features = LATER[draw(st.integers(0, len(LATER) - 1))](draw, net, features)
    gemm(draw, net, features)
    last = draw(st.sampled_from(["Identity", "Softmax <axis = 1>", "LogSoftmax <axis = -1>", "Sigmoid"]))
    net.lines.append(f"scores = {last} ({net.last})")
    net.last = "scores"
    return net
