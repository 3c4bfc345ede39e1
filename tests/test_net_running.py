"""Net: blobs and forward, other image sizes, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from law import run
from net_models import CONV, HEAD, initializer, named, noise
from nets import NAMES, load, parse

import surgery

# ------------------------------------------------ blobs and forward


@pytest.mark.parametrize("name", NAMES)
def test_every_blob_is_what_onnxruntime_gives_for_it(name: str) -> None:
    model = load(name)
    image = noise(model)
    net = surgery.Net(model)
    inferred = {blob: net.blobs[blob].shape for blob in net.blobs}
    wanted = [b for b in net.blobs if b not in net.inputs]
    got = net.forward(image, blobs=wanted)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=blob) for blob in wanted)
    for blob, value in run(probe, image).items():
        np.testing.assert_allclose(got[blob], value, rtol=1e-5, atol=1e-6, err_msg=blob)
        assert net.blobs[blob].shape == value.shape
        pairs = zip(inferred[blob] or value.shape, value.shape, strict=True)
        assert all(isinstance(dim, str) or dim == size for dim, size in pairs)
    np.testing.assert_array_equal(net.blobs[net.inputs[0]].data, image)


def test_a_blob_is_of_the_last_forward() -> None:
    model = load("plain")
    net = surgery.Net(model)
    with pytest.raises(surgery.BadInput, match="'map' has no value yet: call forward first"):
        net.blobs["map"].data  # noqa: B018
    image = noise(model)
    out = net.forward(image)
    np.testing.assert_array_equal(net.blobs["scores"].data, out["scores"])
    first = net.blobs["map"].data
    net.params["w1"].bias[:] += 1
    assert net.blobs["map"].data is first  # still the one of that forward
    with pytest.raises(surgery.BadInput, match="'a' belongs to a forward with other parameters"):
        net.blobs["a"].data  # noqa: B018
    assert net.blobs["a"].shape == (1, 4, 8, 10)
    net.forward(image)
    assert not np.array_equal(net.blobs["map"].data, first)
    with pytest.raises(surgery.BadInput, match="there is no blob 'mapp'; the nearest names are 'map'"):
        net.forward(image, blobs=["mapp"])


def test_the_image_may_lack_its_batch_and_be_of_whole_numbers() -> None:
    model = load("plain")
    net = surgery.Net(model)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 17, 23), np.uint8)
    expected = run(model, pixels[np.newaxis].astype(np.float32))["scores"]
    np.testing.assert_allclose(net.forward(pixels)["scores"], expected, rtol=1e-5)
    np.testing.assert_allclose(net.forward(pixels.astype(np.float64))["scores"], expected, rtol=1e-5)
    np.testing.assert_allclose(net.forward(image=pixels)["scores"], expected, rtol=1e-5)
    np.testing.assert_allclose(net.forward(pixels.tolist())["scores"], expected, rtol=1e-5)


def test_an_input_that_does_not_fit_is_refused() -> None:
    net = surgery.Net(load("plain"))
    with pytest.raises(surgery.BadInput, match=r"shape \[1, 2, 17, 23\], the array given \[2, 18, 23\]"):
        net.forward(np.zeros((2, 18, 23), np.float32))
    with pytest.raises(surgery.BadInput, match=r"takes the inputs \['image'\]; given were \[\]"):
        net.forward()
    with pytest.raises(surgery.BadInput, match=r"given were \['image', 'mask'\]"):
        net.forward(np.zeros((2, 17, 23)), mask=1)
    with pytest.raises(surgery.BadInput, match="is float32, the array given complex128"):
        net.forward(np.zeros((2, 17, 23), complex))
    with pytest.raises(surgery.BadInput, match="is uint8, the array given float64"):
        surgery.Net(load("bytes")).forward(np.zeros((1, 2, 17, 23)))


def test_several_inputs_go_by_name() -> None:
    text = f"""{HEAD} net (float[1,2,4,5] image, float[1,2] more) => (float y)
    <float[2] b>
    {{ p = ReduceMean <axes = [2, 3], keepdims = 0> (image) s = Mul (p, more) y = Add (s, b) }}"""
    net = surgery.Net(parse(text))
    image, more = np.ones((1, 2, 4, 5), np.float32), np.float32([[2, 3]])
    by_name = net.forward(image=image, more=more)["y"]
    np.testing.assert_array_equal(net.forward(image, more=more)["y"], by_name)
    np.testing.assert_allclose(by_name, more + net.params["y"].bias)
    net.reshape(7, 9)
    assert net.blobs["image"].shape == (1, 2, 7, 9)
    assert net.blobs["more"].shape == (1, 2)


# ------------------------------------------------ reshape


def test_a_convolution_takes_another_size_and_the_file_too(tmp_path: Path) -> None:
    model = parse(CONV)
    net = surgery.Net(model)
    net.reshape(9, 30)
    assert net.blobs["conv"].shape == (1, 3, 7, 28)
    image = np.random.default_rng(0).random((1, 2, 9, 30), np.float32)
    dynamic = onnx.ModelProto()
    dynamic.CopyFrom(model)
    for dim in dynamic.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "?"
    dynamic.graph.output[0].type.tensor_type.ClearField("shape")
    np.testing.assert_allclose(net.forward(image)["conv"], run(dynamic, image)["conv"], rtol=1e-5)
    net.save(tmp_path / "large.onnx")
    saved = onnx.load(tmp_path / "large.onnx")
    onnx.checker.check_model(saved, full_check=True)
    dims = [
        [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (saved.graph.input[0], saved.graph.output[0])
    ]
    assert dims == [[1, 2, 9, 30], [1, 3, 7, 28]]
    net.reshape(6, 7)
    np.testing.assert_array_equal(
        net.forward(image[:, :, :6, :7])["conv"], run(model, image[:, :, :6, :7])["conv"]
    )


def test_a_net_of_open_size_stays_open() -> None:
    net = surgery.Net(surgery.convert(load("plain")).proto)
    assert net.blobs["scores"].shape == ("N", 6, "?", "?")
    net.reshape(25, 27)
    assert net.blobs["image"].shape == ("N", 2, 25, 27)
    assert net.blobs["scores"].shape[1:] == (6, 3, 2)
    assert net.forward(np.zeros((2, 2, 17, 31), np.float32))["scores"].shape == (2, 6, 1, 3)
    assert net.blobs["scores"].shape == (2, 6, 1, 3)
    dims = net.proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["N", "", "height", "width"]


@pytest.mark.parametrize(
    ("reshape", "words"),
    [
        ("f = Flatten (map)", "Gemm 'scores' takes a fixed number of features"),
        ("f = Reshape (map, fixed)", "Reshape 'f' makes a shape that is fixed"),
        ("f = Reshape (map, batch)", "Reshape 'f' makes a batch of 2 of its positions"),
    ],
)
def test_a_size_baked_into_a_node_is_named_and_nothing_changes(reshape: str, words: str) -> None:
    text = f"""{HEAD} net (float[1,2,6,7] image) => (float[1,5] scores)
    <float[3,2,3,3] w, float[5,60] v, int64[2] fixed = {{1, 60}}, int64[2] batch = {{-1, 60}}>
    {{ map = Conv (image, w) {reshape} scores = Gemm <transB = 1> (f, v) }}"""
    model = parse(text)
    net = surgery.Net(model)
    before, image = net.proto, noise(model)
    with pytest.raises(surgery.BadInput, match=f"{words}. It was made for 6x7; `surgery convert`"):
        net.reshape(10, 7)
    assert net.proto == before
    np.testing.assert_allclose(net.forward(image)["scores"], run(model, image)["scores"], rtol=1e-5)


def test_other_kinds_of_images_take_other_sizes() -> None:
    signal = f"{HEAD} net (float[1,2,9] x) => (float y) <float[3,2,3] w> {{ y = Conv (x, w) }}"
    net = surgery.Net(parse(signal))
    net.reshape(50)
    assert net.blobs["y"].shape == (1, 3, 48)
    with pytest.raises(surgery.BadInput, match="has 1 sides of 1 pixel or more"):
        net.reshape(5, 5)
    with pytest.raises(surgery.BadInput, match="Conv 'y' cannot take what reaches it"):
        net.reshape(2)
    last = f"""{HEAD} net (float[1,8,9,3] x) => (float y) <float[3,3,3,3] w>
    {{ t = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv (t, w) }}"""
    net = surgery.Net(parse(last))
    net.reshape(11, 13)
    assert net.blobs["x"].shape == (1, 11, 13, 3)
    assert net.blobs["y"].shape == (1, 3, 9, 11)


# ------------------------------------------------ files


def test_saving_keeps_metadata_and_docs(tmp_path: Path) -> None:
    model = named(CONV, conv="conv")
    model.doc_string, model.producer_name, model.model_version, model.domain = "about", "someone", 7, "org.x"
    model.metadata_props.add(key="labels", value="cat,dog")
    model.graph.doc_string = "graph"
    model.graph.node[0].doc_string = "node"
    model.graph.initializer[0].doc_string = "tensor"
    model.graph.initializer[0].metadata_props.add(key="unit", value="none")
    onnx.save(model, tmp_path / "a.onnx")
    net = surgery.Net(tmp_path / "a.onnx")
    net.params["conv"].weight[...] = 1
    net.params["conv"].bias[...] = 2
    net.save(tmp_path / "b.onnx")
    saved = onnx.load(tmp_path / "b.onnx")
    assert (initializer(saved, "weight_name") == 1).all()
    for name in ("weight_name", "bias_name"):
        for one in (saved, model):
            next(t for t in one.graph.initializer if t.name == name).ClearField("raw_data")
    assert saved == model
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_no_file_is_replaced_without_force(tmp_path: Path) -> None:
    onnx.save(parse(CONV), tmp_path / "a.onnx")
    onnx.save(parse(CONV), tmp_path / "b.onnx")
    net = surgery.Net(tmp_path / "a.onnx")
    net.params["conv"].bias = 3
    before = (tmp_path / "a.onnx").read_bytes()
    with pytest.raises(surgery.BadInput, match="is the input itself"):
        net.save(tmp_path / "a.onnx")
    with pytest.raises(surgery.BadInput, match="exists already"):
        net.save(tmp_path / "b.onnx")
    with pytest.raises(surgery.BadInput, match="there is no folder"):
        net.save(tmp_path / "none" / "c.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() == before
    net.save(tmp_path / "b.onnx", force=True)
    net.save(tmp_path / "a.onnx", force=True)
    for name in ("a.onnx", "b.onnx"):
        assert (surgery.Net(tmp_path / name).params["conv"].bias == 3).all()


def external(path: Path, data: str) -> None:
    model = parse(CONV.replace("[3", "[40").replace("1,3,4", "1,40,4"))
    onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=0)


def test_external_weights_stay_external(tmp_path: Path) -> None:
    external(tmp_path / "a.onnx", "a.weights")
    kept = (tmp_path / "a.weights").read_bytes()
    net = surgery.Net(tmp_path / "a.onnx")
    big = onnx.load(tmp_path / "a.onnx")
    net.params["conv"].weight[...] += 1
    net.save(tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").exists()
    saved = onnx.load(tmp_path / "b.onnx")
    np.testing.assert_array_equal(initializer(saved, "weight_name"), initializer(big, "weight_name") + 1)
    assert (tmp_path / "a.weights").read_bytes() == kept


def test_external_weights_of_others_are_not_overwritten(tmp_path: Path) -> None:
    external(tmp_path / "a.onnx", "b.onnx.data")  # its own weights, under a name that b's would have
    kept = (tmp_path / "b.onnx.data").read_bytes()
    net = surgery.Net(tmp_path / "a.onnx")
    with pytest.raises(surgery.BadInput, match=r"b\.onnx\.data exists already"):
        net.save(tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").read_bytes() == kept


def test_a_model_without_its_external_weights_is_refused(tmp_path: Path) -> None:
    external(tmp_path / "a.onnx", "a.weights")
    bare = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    with pytest.raises(surgery.BadInput, match="lies in a file of its own that was not loaded"):
        surgery.Net(bare)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(surgery.BadInput, match="cannot read"):
        surgery.Net(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(surgery.BadInput, match="is not an ONNX model"):
        surgery.Net(tmp_path / "text.onnx")


def test_it_says_what_it_is() -> None:
    net = surgery.Net("fixtures/rnet24.onnx")
    assert repr(net) == "Net('fixtures/rnet24.onnx': 10 layers with parameters, 16 blobs)"
    assert repr(net.params["h.l.0"]) == "Gemm '/h/l/l.0/Gemm': weight [128, 576] float32, bias [128] float32"
    assert repr(net.blobs["42"]) == "42: [1, 4]"
    assert net.inputs == ["input"]
    assert net.outputs == ["42", "44"]
