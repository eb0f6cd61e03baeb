"""Tickets for PyTorch: its arithmetic on what is written, and all of it back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_files import identical
from test_pretrained import Numpy, close

from jaxticket import Ticket, masks, models, prune
from jaxticket.models import pretrained

OPS = Numpy()


def dense(d, x, *layers):
    """Linear layers with ReLU between them, on `[batch, features]`."""
    for i, layer in enumerate(layers):
        x = OPS.relu(x) if i else x
        x = x @ d[f"{layer}.weight"].T + d[f"{layer}.bias"]
    return x


def flat(x):
    return x.reshape(len(x), -1)


def lenet(d, x):
    return dense(d, flat(x), "fc_0", "fc_1", "output")


def conv_2(d, x):
    for layer in ("conv_0", "conv_1"):
        x = OPS.conv(x, d[f"{layer}.weight"], d[f"{layer}.bias"], padding=1)
        x = OPS.relu(x)
    return dense(d, flat(OPS.max_pool(x, 2, 2)), "fc_0", "output")


def lenet_5(d, x):
    for layer, padding in (("conv_0", 2), ("conv_1", 0)):
        x = OPS.conv(x, d[f"{layer}.weight"], d[f"{layer}.bias"], padding=padding)
        x = OPS.max_pool(OPS.relu(x), 2, 2)
    return dense(d, flat(x), "fc_0", "output")


def resnet(d, x):
    def normed(x, conv, norm, **options):
        y = OPS.conv(x, d[f"{conv}.weight"], **options)
        parts = ("running_mean", "running_var", "weight", "bias")
        return OPS.norm(y, *(d[f"{norm}.{part}"] for part in parts))

    x = OPS.relu(normed(x, "conv1", "bn1", padding=1))
    for stage in (1, 2):
        name, stride = f"layer{stage}.0", stage
        y = normed(x, f"{name}.conv1", f"{name}.bn1", stride=stride, padding=1)
        y = normed(OPS.relu(y), f"{name}.conv2", f"{name}.bn2", padding=1)
        if stage > 1:
            x = OPS.conv(x, d[f"{name}.downsample.0.weight"], stride=stride)
        x = OPS.relu(y + x)
    return x.mean((2, 3)) @ d["fc.weight"].T + d["fc.bias"]


# The function of a state dictionary, the fields of the network, the shape of an image:
# no square, and of several channels, where pixels are flattened in another order.
CASES = {
    "lenet_300_100": (lenet, {"hidden": (7, 6)}, (4, 3, 2)),
    "conv_2": (conv_2, {"widths": (3,), "hidden": (6,)}, (6, 4, 2)),
    "lenet_5": (lenet_5, {"widths": (3, 4), "hidden": (5,)}, (16, 12, 2)),
    "resnet_20": (resnet, {"width": 3, "blocks": (1, 1)}, (6, 4, 3)),
}


def made(name, options, image):
    """A pruned network whose biases and statistics are no zeros, and its model."""
    model = models.create(name, 5, **options)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image)))
    rng = np.random.default_rng(0)
    weights, state = jax.tree.map(
        lambda x: (
            jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
            if x.ndim == 1
            else jnp.asarray(rng.normal(0, 0.4, x.shape), jnp.float32)
        ),
        like,
    )
    ticket = prune(Ticket(weights, masks.full(weights), state), "magnitude", 0.5)
    return model, ticket


def applied(arrays):
    """What a pruned module computes with, in float64."""
    found = {}
    for key, x in arrays.items():
        if key.endswith("_orig"):
            name = key.removesuffix("_orig")
            found[name] = x * np.float64(arrays[f"{name}_mask"])
        elif not key.endswith("_mask"):
            found[key] = np.float64(x)
    return found


@pytest.mark.parametrize("name", CASES)
def test_pytorch_computes_what_the_ticket_does(tmp_path, name):
    forward, options, image = CASES[name]
    model, ticket = made(name, options, image)
    path = tmp_path / "new" / "ticket.safetensors"
    x = np.random.default_rng(1).normal(size=(3, *image)).astype(np.float32)
    params = masks.apply(ticket.mask, ticket.weights)
    expected = model.apply(params, ticket.model_state, x)[0]
    for how in ("pruned", "applied"):
        options = {**options, "image": image}
        pretrained.save_ticket(path, name, ticket, masks=how, **options)
        found = forward(applied(load_file(path)), x.transpose(0, 3, 1, 2))
        close(found, expected)
        if how == "pruned":
            identical(pretrained.load_ticket(path, name, **options), ticket)
        else:
            identical(pretrained.load(path, name, **options)[0], params)


@pytest.mark.parametrize(
    ("name", "image", "some"),
    [
        ("conv_4", (8, 8, 3), "conv_3.weight"),
        ("conv_6", (8, 8, 3), "conv_5.bias"),
        ("resnet_32", (8, 8, 3), "layer3.4.conv2.weight"),
        ("mlp_1d", (9,), "fc_1.weight"),
        ("vgg_16", (32, 32, 3), "features.40.weight"),
    ],
)
def test_the_zoo_has_names_there(name, image, some):
    module = pretrained._module(name, 10, {})
    like = pretrained._like(module, image)
    places = pretrained._places(name, module, like, image)
    assert some in places
    assert len(places) == len(jax.tree.leaves(like))


OWN = {
    "encoder/fc": ("encoder.fc1", (2, 3)),
    "encoder/norm": "encoder.norm",
    "head": "head",
}


def own():
    """A network of layers in layers, as nnx has them: statistics beside no weights."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    weights = {
        "encoder": {
            "fc": {"kernel": normal(12, 5)},
            "norm": {"scale": normal(5), "bias": normal(5)},
        },
        "head": {"kernel": normal(5, 4), "bias": normal(4)},
    }
    state = {"encoder": {"norm": {"mean": normal(5), "var": normal(5)}}}
    state["dropout"] = {"key": jax.random.key(3), "count": jnp.uint32(1)}
    ticket = prune(Ticket(weights, masks.full(weights), state), "magnitude", 0.5)
    return ticket, (weights, state)


def test_a_network_of_ones_own_by_its_names(tmp_path):
    ticket, like = own()
    path = tmp_path / "own.safetensors"
    pretrained.save_ticket(path, OWN, ticket)
    found = load_file(path)
    assert {*found} == {
        *(f"encoder.fc1.weight_{part}" for part in ("orig", "mask")),
        *(f"head.weight_{part}" for part in ("orig", "mask")),
        *("encoder.norm.weight", "encoder.norm.bias", "head.bias"),
        *("encoder.norm.running_mean", "encoder.norm.running_var"),
    }
    x = np.random.default_rng(1).normal(size=(2, 2, 3, 2))  # height, width, channels
    ours = x.reshape(2, -1) @ np.asarray(ticket.weights["encoder"]["fc"]["kernel"])
    theirs = flat(x.transpose(0, 3, 1, 2)) @ found["encoder.fc1.weight_orig"].T
    close(theirs, ours)
    identical(pretrained.load_ticket(path, OWN, like=like), ticket)
    again = pretrained.load_ticket(path, OWN, like=jax.eval_shape(lambda: like))
    identical(again.weights, ticket.weights)
    assert isinstance(again.model_state["dropout"]["key"], jax.ShapeDtypeStruct)


def test_values_that_are_not_known_become_zeros(tmp_path):
    ticket, like = own()
    lost = jax.tree.map(
        lambda w, m: w if m is None else jnp.where(m, w, jnp.nan),
        ticket.weights,
        ticket.mask,
    )
    path = tmp_path / "t.safetensors"
    pretrained.save_ticket(path, OWN, ticket._replace(weights=lost))
    found = pretrained.load_ticket(path, OWN, like=like)
    identical(found.weights, masks.apply(ticket.mask, ticket.weights))


def test_what_has_no_name_or_is_no_mask_is_refused(tmp_path):
    ticket, like = own()
    path = tmp_path / "t.safetensors"
    few = {name: there for name, there in OWN.items() if name != "head"}
    with pytest.raises(ValueError, match="'head/bias' has no name in PyTorch"):
        pretrained.save_ticket(path, few, ticket)
    wrong = OWN | {"encoder/fc": ("encoder.fc1", (5, 1))}
    with pytest.raises(ValueError, match=r"encoder/fc has 12 inputs, of no \[5, 1\]"):
        pretrained.save_ticket(path, wrong, ticket)
    with pytest.raises(ValueError, match="masks must be one of"):
        pretrained.save_ticket(path, OWN, ticket, masks="mine")
    assert not list(tmp_path.iterdir())
    pretrained.save_ticket(path, OWN, ticket)
    with pytest.raises(ValueError, match="give `like`"):
        pretrained.load_ticket(path, OWN)
    with pytest.raises(ValueError, match="but 'encoder.fc1.weight_mask'"):
        pretrained.load(path, OWN, like=like)
    arrays = load_file(path)
    save_file(arrays | {"head.weight_mask": arrays["head.weight_orig"]}, path)
    with pytest.raises(ValueError, match="'head.weight_mask' holds other numbers"):
        pretrained.load_ticket(path, OWN, like=like)
    save_file(arrays | {"head.weight_mask": np.ones((1, 1), np.float32)}, path)
    with pytest.raises(ValueError, match=r"expected 'head.weight_mask' float\[4, 5\]"):
        pretrained.load_ticket(path, OWN, like=like)


def test_a_pruned_module_takes_it(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch.nn.utils import prune as pruning

    _, options, image = CASES["lenet_300_100"]
    _, ticket = made("lenet_300_100", options, image)
    path = tmp_path / "t.safetensors"
    options = {**options, "image": image}
    pretrained.save_ticket(path, "lenet_300_100", ticket, **options)
    module = torch.nn.ModuleDict(
        {
            "fc_0": torch.nn.Linear(24, 7),
            "fc_1": torch.nn.Linear(7, 6),
            "output": torch.nn.Linear(6, 5),
        }
    )
    for layer in module.values():
        pruning.identity(layer, "weight")
    arrays = {key: torch.tensor(x) for key, x in load_file(path).items()}
    module.load_state_dict(arrays)
    save_file({k: x.numpy() for k, x in module.state_dict().items()}, path)
    identical(pretrained.load_ticket(path, "lenet_300_100", **options), ticket)
