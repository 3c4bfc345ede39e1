"""Verbs on the graph: the order of nodes, and names nobody has."""

from __future__ import annotations

from itertools import pairwise

import nets
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.graph import Builder, in_order


def chain(count: int) -> gs.Graph:
    """A graph of so many nodes, each of which reads the one before."""
    tensors = [gs.Variable(f"t{i}", np.float32, [1]) for i in range(count + 1)]
    nodes = [gs.Node("Relu", inputs=[a], outputs=[b]) for a, b in pairwise(tensors)]
    return gs.Graph(nodes, inputs=tensors[:1], outputs=tensors[-1:], opset=17)


@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_every_node_stands_behind_what_it_reads(count: int, random: st.DataObject) -> None:
    x = gs.Variable("x", np.float32, [1])
    tensors, nodes = [x], []
    for i in range(count):
        read = [random.choice(tensors) for _ in range(2)]  # type: ignore[attr-defined]
        tensors.append(gs.Variable(f"t{i}", np.float32, [1]))
        nodes.append(gs.Node("Add", f"n{i}", inputs=read, outputs=tensors[-1:]))
    random.shuffle(nodes)  # type: ignore[attr-defined]
    graph = gs.Graph(list(nodes), inputs=[x], outputs=tensors[-1:], opset=17)
    names = [node.name for node in in_order(graph).nodes]
    assert sorted(names) == sorted(node.name for node in nodes)
    for node in nodes:
        makers = [maker.name for tensor in node.inputs for maker in tensor.inputs]
        assert all(names.index(maker) < names.index(node.name) for maker in makers)


def test_a_chain_longer_than_the_stack() -> None:
    graph = chain(5000)
    graph.nodes.reverse()
    made = [node.outputs[0].name for node in in_order(graph).nodes]
    assert made == [f"t{i}" for i in range(1, 5001)]


def test_what_a_subgraph_reads_from_outside_stands_before_it() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[1] x, int64 turns, bool yes) => (float[1] y)
      { t = Relu (x)
        y = Loop (turns, yes, x) <body = step (int64 i, bool go, float[1] s) => (bool on, float[1] r)
          { on = Identity (go) r = Add (s, t) }> }"""
    graph = gs.import_onnx(nets.parse(text))
    graph.nodes.reverse()
    assert [node.op for node in in_order(graph).nodes] == ["Relu", "Loop"]


def test_a_loop_of_nodes_is_no_order() -> None:
    graph = chain(2)
    graph.nodes[0].inputs = [graph.nodes[1].outputs[0]]
    with pytest.raises(ValueError, match="cycle"):
        in_order(graph)


def test_a_fresh_name_is_nobodys() -> None:
    build = Builder(chain(3), 17, 2)
    names = [build.fresh(name) for name in ("t1", "t1", "new", "new", "t1_2", "t1")]
    assert len(set(names)) == len(names)
    assert not set(names) & {f"t{i}" for i in range(4)}
    assert names[2] == "new"
