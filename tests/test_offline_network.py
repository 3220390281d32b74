"""Graphs as PyTorch modules, and back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Unit, formula, image, model_path, network, real, small_network

torch = pytest.importorskip("torch", reason="PyTorch is not here: pip install torch")

from kilograd.errors import InputError  # noqa: E402 behind the line that may skip
from kilograd.frontend import load_model_folder  # noqa: E402
from kilograd.ir import Array, Builder, Graph, Input, Node, Param  # noqa: E402
from kilograd.layers.raised import quantised, real_parameters  # noqa: E402
from kilograd.offline.network import FloatNetwork, int8_graph, int8_outputs  # noqa: E402
from kilograd.ops import WindowPool  # noqa: E402

ODD = (Unit(6, 4), Unit(9, 5, kernel=5, stride=2), Unit(10, 5, kernel=7))


def images(count: int, size: int = 8) -> Array:
    return np.stack([image(np.random.default_rng(seed), size) for seed in range(count)])


def exact(graph: Graph, weights: dict[str, Array], codes: Array) -> dict[str, Array]:
    """Every activation of one image in float64, from the formulas that tests of ops use."""
    values: dict[Node, Array] = {}
    for n in graph.nodes:
        if isinstance(n.op, Input):
            values[n] = real(codes, n.type)
        elif isinstance(n.op, Param):
            values[n] = weights[n.name].astype(np.float64)
        else:
            y = formula(n.op, tuple(values[x] for x in n.inputs))
            assert y is not None
            if n.name.endswith(("stem", "pw1", "dw")):
                y = np.maximum(y, 0)
                y = np.minimum(y, 6) if n.type.affine.scale[0] < 6.001 / 255 else y
            values[n] = y
    return {n.name: v for n, v in values.items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_activation_is_that_of_the_formulas(seed: int) -> None:
    graph = network(seed, ODD)
    weights = real_parameters(graph)
    batch = images(3)
    with torch.inference_mode():
        values = FloatNetwork(graph).values(torch.from_numpy(batch))
    for i, codes in enumerate(batch):
        want = exact(graph, weights, codes)
        for n, got in values.items():
            mine = got[i].permute(1, 2, 0).numpy()
            assert np.allclose(mine, want[n.name], rtol=1e-4, atol=1e-4), n.name


def test_some_layers_are_clamped_at_6_and_some_are_linear() -> None:
    graph = load_model_folder(model_path("mcunet-5fps")).graph
    noise = np.random.default_rng(0).integers(-128, 128, (4, 128, 128, 3), np.int8)
    with torch.inference_mode():
        values = {n.name: x for n, x in FloatNetwork(graph).values(torch.from_numpy(noise)).items()}
    assert values["first_conv"].min() == 0
    assert values["first_conv"].max() == 6
    assert values["blocks.0.pw2"].min() < 0


def test_folding_batch_normalisation_changes_nothing() -> None:
    graph = small_network()
    module = FloatNetwork(graph, fresh=0)
    batch = torch.from_numpy(images(16))
    module.train()
    for _ in range(3):
        module(batch)  # statistics that are neither 0 nor 1
    module.eval()
    (got,) = module.infer(images(2))
    for i, codes in enumerate(images(2)):
        want = exact(graph, module.weights(), codes)[graph.outputs[0].name].ravel()
        assert np.allclose(got[i], want, rtol=1e-4, atol=1e-4)


def test_fresh_weights_follow_the_seed_and_not_the_graph() -> None:
    graph = small_network()
    a, b, c = (FloatNetwork(graph, fresh=seed).weights() for seed in (0, 0, 1))
    assert all((a[k] == b[k]).all() for k in a)
    assert (a["stem.weight"] != c["stem.weight"]).all()
    assert (a["stem.weight"] != real_parameters(graph)["stem.weight"]).all()


def test_weights_come_back_as_they_went_in() -> None:
    graph = small_network()
    again = FloatNetwork(graph).weights()
    for name, value in real_parameters(graph).items():
        assert (again[name] == value).all()


def test_only_the_layers_that_were_named_learn() -> None:
    module = FloatNetwork(small_network())
    module.learn(["b2.pw2", "b1.dw"])
    module(torch.from_numpy(images(2)))[0].sum().backward()
    before = module.weights()
    with torch.no_grad():
        for p in module.parameters():
            if p.grad is not None:
                p.sub_(p.grad + 0.1)
    changed = {k for k, v in module.weights().items() if (v != before[k]).any()}
    assert changed == {"b2.pw2.weight", "b2.pw2.bias", "b1.dw.weight", "b1.dw.bias"}


def test_an_op_of_no_plain_network_is_named() -> None:
    graph = small_network()
    b = Builder(graph)
    pooled = b.graph(b(WindowPool(2), graph["stem"], name="half"))
    with pytest.raises(
        InputError, match=r"^small: 'half' is a WindowPool, which cannot be trained"
    ):
        FloatNetwork(pooled, name="small")
    with pytest.raises(TypeError, match="half"):
        quantised(pooled, real_parameters(graph), {n.name: (-1.0, 1.0) for n in graph.nodes})


def test_the_int8_program_does_what_the_module_does() -> None:
    module = FloatNetwork(small_network())
    batch = images(80)
    (want,) = module.infer(batch[40:])
    (got,) = int8_outputs(int8_graph(module, batch[:40]), batch[40:])
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", ["mcunet-5fps", "mbv2-w0.35"])
def test_a_published_network_quantised_again_is_as_good_as_published(name: str) -> None:
    model = load_model_folder(model_path(name))
    rng = np.random.default_rng(0)
    # Smooth noise: photographs need a data set.
    coarse = rng.normal(0, 60, (48, 5, 5, 3)).repeat(26, 1).repeat(26, 2)[:, :128, :128]
    batch = np.clip(coarse + rng.normal(0, 15, coarse.shape), -128, 127).astype(np.int8)
    module = FloatNetwork(model.graph)
    again = int8_graph(module, batch[:32])
    want, published, mine = (
        f(batch[32:])[0]
        for f in (
            module.infer,
            lambda x: int8_outputs(model.graph, x),
            lambda x: int8_outputs(again, x),
        )
    )

    def cosine(a: Array) -> float:
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(want, axis=1)
        return float(((a * want).sum(axis=1) / lengths).mean())

    print(
        f"{name}: cosine to float features: published {cosine(published):.4f}, "
        f"quantised again {cosine(mine):.4f}"
    )
    assert cosine(mine) > 0.97
    assert cosine(mine) > cosine(published) - 0.01
