"""Fisher information of channels, from integers, against float64 and against a plain definition."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from helpers import SHARED, image, model_path, needs_shared, small_network

from kilograd.emit import link
from kilograd.frontend import load_model_folder
from kilograd.ir import Array, interpret
from kilograd.ops import Sgd
from kilograd.passes import PrototypeHead, Training, entries, inspection
from kilograd.targets import build_host

WAYS = 4
NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SETS = ("flowers89", "gtsrb", "omniglot", "dtd10")


def ranks(x: Array) -> Array:
    """Ranks from the smallest; equal values share their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def rank_correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def test_ranks_by_hand() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert rank_correlation(np.array([1, 5, 9]), np.array([2, 7, 8])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 5, 9]), np.array([9, 5, 1])) == pytest.approx(-1)


def test_sums_grow_by_what_each_sample_says_and_are_kept_apart_from_prototypes() -> None:
    network = small_network()
    layers = ("b1.dw", "b2.pw1", "b2.pw2")
    graphs = inspection(network, PrototypeHead(WAYS), layers)
    host = build_host(link(graphs))
    rng = np.random.default_rng(0)
    pictures = [image(rng, network.inputs()[0].type.shape[0]) for _ in range(WAYS)]
    for way, picture in enumerate(pictures):
        host.call("enrol", image=picture, label=np.array([way]))
    expected: dict[str, Array] = {f"{name}.fisher": np.zeros(0) for name in layers}
    expected = {k: np.zeros_like(host.state[k]) for k in expected}
    for way, picture in enumerate(reversed(pictures)):
        feeds = {"image": picture, "label": np.array([way], np.int32)}
        state = {"head.prototypes": host.state["head.prototypes"].copy(), **expected}
        found = interpret(graphs["inspect"], {**feeds, **state})
        out = host.call("inspect", **feeds)
        assert out["loss"] > 0
        expected = {k: np.asarray(found[k]) for k in expected}
        for k, v in expected.items():
            assert np.array_equal(host.state[k], v)
    assert all(v.any() for v in expected.values())
    host.call("forget")
    assert not host.state["head.prototypes"].any()


def fisher_of(path: str, name: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Two photographs of each class, after prototypes of two others: integers and float64."""
    model = load_model_folder(model_path(path))
    layers = model.layers[-18:]
    network = oracle.Network(model_path(path))
    assert SHARED is not None
    photos = oracle.photographs(SHARED / "data" / f"{name}.parquet", 60)
    labels = sorted({label for _, label in photos})
    ways = {label: way for way, label in enumerate(labels)}
    host = build_host(link(inspection(model.graph, PrototypeHead(len(ways)), layers)))
    prototypes = np.zeros((len(ways), model.graph.outputs[0].type.size))
    support, asked = photos[::2], photos[1::2]
    for photo, label in support:
        host.call("enrol", image=photo, label=np.array([ways[label]]))
        prototypes[ways[label]] += network.features(network.run(photo))
    seen = [(p, label) for p, label in asked if prototypes[ways[label]].any()][:12]
    expected: dict[str, Array] = {}
    for photo, label in seen:
        host.call("inspect", image=photo, label=np.array([ways[label]]))
        codes = network.run(photo)
        features = network.features(codes)
        head = oracle.Cosine(prototypes[list(ways.values())] + 1e-30)
        _, d_logits = oracle.cross_entropy(head.logits(features), ways[label])
        for k, v in network.fisher(codes, head.gradient(features, d_logits)).items():
            expected[k] = expected.get(k, np.zeros_like(v)) + v
    return {k: host.state[f"{k}.fisher"].copy() for k in layers}, expected


@needs_shared
@pytest.mark.parametrize("name", ["flowers89", "gtsrb"])
@pytest.mark.parametrize("path", NETWORKS)
def test_integers_rank_channels_as_float64_does(path: str, name: str) -> None:
    found, expected = fisher_of(path, name)
    worst = min((rank_correlation(v, expected[k]), k) for k, v in found.items())
    totals = rank_correlation(
        np.array([v.sum() for v in found.values()]), np.array([expected[k].sum() for k in found])
    )
    print(f"\n| {path} | {name} | {worst[0]:.4f} ({worst[1]}) | {totals:.4f} |")
    assert worst[0] >= 0.95
    assert totals >= 0.95


@needs_shared
@pytest.mark.parametrize("path", NETWORKS)
def test_the_pass_needs_no_more_than_inference(path: str) -> None:
    """Than inference with whole maps, as engines do it."""
    model = load_model_folder(model_path(path))
    head = PrototypeHead(10)
    found = link(inspection(model.graph, head, model.layers[-18:]))
    plain = Training(head, Sgd(0), train_head=False, stream=False)
    inference = link(entries(model.graph, plain)).entries["infer"].plan.peak
    assert found.entries["inspect"].plan.peak < inference
