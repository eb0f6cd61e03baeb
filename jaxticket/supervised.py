"""Supervised learning, for any `Model`: losses, what they are tested by, evidence.

A loss is `(outputs, labels) -> (losses, accuracies)`, a pair of numbers an example, or
a token of one: what is minimised, and what is reported, of which 1 is the best. An
attribute `metric` says what the latter is called, else it is "accuracy"; an attribute
`check`, `(outputs, labels) -> None` of the shape of outputs, what labels it takes.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket import checks
from jaxticket.base import Evidence, ModelState, Params, PRNGKey
from jaxticket.data import Split
from jaxticket.models.model import Model
from jaxticket.scores.obd import wide_zeros
from jaxticket.training import EvidenceFn, LossFn, rows

IMAGES = 10_000  # that scores look at, unless told otherwise
CURVED = 1_000  # of these, those whose curvature is computed, example after example
LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")

Loss = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Metrics(NamedTuple):
    """Means over examples: float32 scalars."""

    loss: jax.Array
    accuracy: jax.Array


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of one class an example, or of the next token at every place.

    Args:
      outputs: logits `[batch, ..., classes]`.
      labels: int `[batch, ...]`.

    Returns:
      `-log softmax(outputs)[label]`, and whether the largest logit is the label's.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return losses, jnp.argmax(outputs, axis=-1) == labels


def _classes(outputs: jax.ShapeDtypeStruct, labels: np.ndarray) -> None:
    """Raises a `ValueError` for labels that are no classes of the outputs'."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise checks.Refused(
            "labels",
            f"must be whole numbers, the classes; got {labels.dtype}: convert them, or "
            "take another loss",
        )
    if labels.shape[1:] != outputs.shape[1:-1]:
        raise checks.Refused(
            "labels",
            f"must be one class for each of the network's outputs "
            f"{[*outputs.shape[1:]]}, {[*outputs.shape[1:-1]]} of an example; got "
            f"{[*labels.shape[1:]]}: take labels.squeeze(-1) of labels [n, 1]",
        )
    wrong = labels[(labels < 0) | (labels >= outputs.shape[-1])]
    if wrong.size:
        raise checks.Refused(
            "labels",
            f"must be classes from 0 to {outputs.shape[-1] - 1}, since the network has "
            f"{outputs.shape[-1]} outputs; got {wrong[0]}",
        )


cross_entropy.check = _classes


def smoothed(share: float) -> Loss:
    """`cross_entropy`, where a share of every label lies evenly on all classes.

    Reference:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
      section 7.
    """
    checks.share(share=share)

    def smoothed_cross_entropy(outputs, labels):
        losses, right = cross_entropy(outputs, labels)
        evenly = -jax.nn.log_softmax(outputs).mean(-1)
        return (1 - share) * losses + share * evenly, right

    smoothed_cross_entropy.check = _classes
    return smoothed_cross_entropy


def binary_cross_entropy(
    outputs: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of several labels that an example may have at once.

    Args:
      outputs: logits `[batch, labels]`, or `[batch]` where it is one.
      labels: bool, likewise, whichever the outputs are.

    Returns:
      The mean over the labels of `log(1 + exp(-(2 label - 1) output))`, and the share
      of the labels that the signs of the outputs have right.
    """
    labels = jnp.reshape(labels, outputs.shape)
    losses = optax.sigmoid_binary_cross_entropy(outputs, labels.astype(outputs.dtype))
    right = (outputs > 0) == labels
    return losses.mean(_own(outputs)), right.mean(_own(outputs))


def _own(outputs: jax.Array) -> tuple[int, ...]:
    """The axes of what one example has: none where its output is a number."""
    return (-1,) if outputs.ndim > 1 else ()


def _bools(outputs: jax.ShapeDtypeStruct, labels: np.ndarray) -> None:
    """Raises a `ValueError` for labels that are no truth value an output."""
    wrong = labels[~np.isin(labels, (0, 1))]
    if wrong.size:
        raise checks.Refused("labels", f"must be 0 or 1, or bools; got {wrong[0]}")
    _as_many(outputs, labels)


def _as_many(outputs: jax.ShapeDtypeStruct, labels: np.ndarray) -> None:
    """Raises a `ValueError` for other numbers of labels than of outputs."""
    if math.prod(labels.shape[1:]) != math.prod(outputs.shape[1:]):
        raise checks.Refused(
            "labels",
            f"must be as many of an example as the network has outputs, "
            f"{[*outputs.shape[1:]]}; got {[*labels.shape[1:]]}",
        )


binary_cross_entropy.check = _bools


def squared_error(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of numbers, of unit variance.

    Args:
      outputs: `[batch, numbers]`, or `[batch]` where it is one.
      labels: likewise, whichever the outputs are.

    Returns:
      The mean over the numbers of `(output - label)^2`, and one minus that: of labels
      of unit variance the share that is explained.
    """
    errors = (outputs - jnp.reshape(labels, outputs.shape)) ** 2
    errors = errors.mean(_own(outputs))
    return errors, 1 - errors


squared_error.metric = "variance explained"
squared_error.check = _as_many


def check(
    split: Split,
    loss: Loss | None = None,
    outputs: Callable[[], jax.ShapeDtypeStruct] | None = None,
) -> None:
    """Raises a `ValueError` for data that are wrong; what is traced passes.

    Args:
      split: images and as many labels.
      loss: says what labels it takes, if it has a `check`.
      outputs: `() -> shape` of what the network makes of a batch.
    """
    rows(split)
    for name, values in (("images", split.images), ("labels", split.labels)):
        is_float = jnp.issubdtype(values.dtype, jnp.floating)
        if is_float and checks.concrete(values):
            finite = np.isfinite(np.asarray(values))
            if not finite.all():
                at = [int(i) for i in np.argwhere(~finite)[0]]
                found = float(np.asarray(values)[tuple(at)])  # a trace may be under way
                raise checks.Refused(
                    name, f"must be finite numbers; got {found} at {at}"
                )
    if outputs is None or not checks.concrete(split.labels):
        return
    found = outputs()
    _of_batch("the network", "an array of floats, [batch, ...]", found)
    if hasattr(loss, "check"):
        loss.check(found, np.asarray(split.labels))
    wide = jax.ShapeDtypeStruct(found.shape, jnp.float32)
    each = jax.eval_shape(loss, wide, split.labels[:1])
    if not isinstance(each, tuple | list) or len(each) != 2:
        alone = isinstance(each, jax.ShapeDtypeStruct)
        raise checks.Refused(
            "the loss",
            "must return (losses, accuracies) of a batch; got "
            f"{'losses alone' if alone else type(each).__name__}",
        )
    _of_batch("the loss", "losses as floats, [batch, ...], first", each[0])


def _of_batch(whose: str, what: str, found: Any) -> None:
    """Raises a `ValueError` for what is no array of floats of a batch of one."""
    got = type(found).__name__
    if isinstance(found, jax.ShapeDtypeStruct):
        if found.shape[:1] == (1,) and jnp.issubdtype(found.dtype, jnp.floating):
            return
        got = f"{found.dtype} {[*found.shape]} of a batch of 1"
    raise checks.Refused(whose, f"must return {what}; got {got}")


def objective(
    model: Model,
    loss: Loss = cross_entropy,
    *,
    prepare: Callable[[jax.Array], jax.Array] = lambda images: images,
    augment: Callable[[PRNGKey, jax.Array], jax.Array] | None = None,
    train: bool = True,
) -> LossFn:
    """The mean loss of a `Split`'s batch.

    Args:
      model: the network.
      loss: `(outputs, labels) -> (losses, accuracies)`.
      prepare: images as they are stored -> what the network takes; runs in every step,
        so that data stay small on the device.
      augment: `(key, images) -> images`, before `prepare`.
      train: run the network in training mode, with dropout, and normalised by the
        batch, whose statistics move the running ones; otherwise as in a test, with
        statistics that stay.

    Returns:
      `(params, model_state, batch, key) -> (loss, model_state)`.
    """

    def loss_fn(params, model_state, batch, key):
        augment_key, model_key = jax.random.split(key)
        images = batch.images
        if augment is not None:
            images = augment(augment_key, images)
        outputs, model_state = model.apply(
            params, model_state, prepare(images), train=train, key=model_key
        )
        losses, _ = loss(outputs.astype(jnp.float32), batch.labels)
        return losses.mean(), model_state

    def outputs_of(network, split):
        def apply(network, images):
            return model.apply(*network, prepare(images), train=False)[0]

        return jax.eval_shape(apply, network, split.images[:1])

    loss_fn.check = lambda network, split: check(
        split, loss, lambda: outputs_of(network, split)
    )
    return loss_fn


def evaluator(
    model: Model,
    loss: Loss = cross_entropy,
    *,
    prepare: Callable[[jax.Array], jax.Array] = lambda images: images,
    batch_size: int = 100,
) -> Callable[[Params, ModelState, Split], Metrics]:
    """`(params, model_state, split) -> Metrics`, in evaluation mode.

    Runs over batches one after another, the last one padded, so that memory does not
    depend on how much there is. On CPU batches of 1000 are no faster, and convolutions
    then take 840 MB in Conv-2, four times what XLA plans for, against 90 MB. Other
    numbers of images than of labels are a `ValueError`, and images and labels that
    cannot be, which are looked at on the host in every call outside `jit`.
    """
    checks.whole(1)(batch_size=batch_size)
    known = objective(model, loss, prepare=prepare).check

    def evaluate(params, model_state, split):
        model_state = {} if model_state is None else model_state
        known((params, model_state), split)
        return means(params, model_state, split)

    @jax.jit  # called by itself it is compiled once
    def means(params, model_state, split):
        size = rows(split)
        batch = min(batch_size, size)
        batches = -(-size // batch)
        # Rows past the end repeat the last one and weigh nothing.
        places = jnp.arange(batches * batch, dtype=jnp.int32).reshape(batches, batch)

        def one(places):
            real = places < size
            places = jnp.minimum(places, size - 1)
            images = prepare(jnp.take(split.images, places, axis=0))
            labels = jnp.take(split.labels, places, axis=0)
            outputs, _ = model.apply(params, model_state, images, train=False)
            each = map(_of_example, loss(outputs.astype(jnp.float32), labels))
            return tuple(jnp.sum(values * real) for values in each)

        losses, accuracies = jax.lax.map(one, places)
        return Metrics(jnp.sum(losses) / size, jnp.sum(accuracies) / size)

    return evaluate


def _of_example(values: jax.Array) -> jax.Array:
    """Means over what an example has several of, `[batch]`."""
    return values.reshape(len(values), -1).mean(-1) if values.ndim > 1 else values


def evidence(
    model: Model,
    split: Split,
    loss: Loss = cross_entropy,
    *,
    prepare: Callable[[jax.Array], jax.Array] = lambda images: images,
    images: int = IMAGES,
    curved: int = CURVED,
    batch_size: int = 100,
) -> EvidenceFn:
    """What scores may look at: a loss on fixed images, and the network alone.

    The loss is the mean over the first images, in whole batches, one after
    another; its gradient computes each batch anew and keeps none, so that memory does
    not depend on how many there are.

    The curvature is exact for the first of these images. It takes one after another,
    and of each as many gradients as there are outputs: the Hessian of the loss with
    respect to these is a sum of squares along its eigenvectors. A batch would need the
    gradients of each of its examples in memory, and on CPU is slower.

    Args:
      model: the network, in evaluation mode.
      split: of which the first images are taken, the same for all seeds.
      loss: `(outputs, labels) -> (losses, accuracies)`.
      prepare: images as they are stored -> what the network takes.
      images: how many at most.
      curved: how many of these at most for the curvature.
      batch_size: images in a batch.

    Returns:
      `(model_state, temperature=1) -> Evidence` with `loss`, `forward` and `curvature`;
      the outputs are divided by the temperature in the loss, which GraSP wants at 200.
      The initial weights and the key belong to whoever prunes.

    Raises:
      ValueError: numbers below 1, or other numbers of images than of labels.
    """
    checks.whole(1)(images=images, curved=curved, batch_size=batch_size)
    check(split)
    size = min(images, rows(split))
    batch = min(batch_size, size)
    number = size // batch
    batches = jax.tree.map(
        lambda x: jnp.reshape(x[: number * batch], (number, batch, *x.shape[1:])), split
    )
    first = jax.tree.map(lambda x: x[: min(curved, size)], split)
    one = jax.eval_shape(prepare, split.images[:1])

    def of(model_state, temperature=1.0):
        checks.positive(temperature=temperature)
        model_state = {} if model_state is None else model_state

        def apply(*args, **options):
            outputs, state = model.apply(*args, **options)
            return outputs / temperature, state

        cooled = model if temperature == 1 else model._replace(apply=apply)
        loss_fn = objective(cooled, loss, prepare=prepare, train=False)

        def mean_loss(params):
            @functools.partial(jax.checkpoint, prevent_cse=False)
            def add(total, batch):
                value, _ = loss_fn(params, model_state, batch, jax.random.key(0))
                return total + value, None

            total, _ = jax.lax.scan(add, jnp.zeros((), jnp.float32), batches)
            return total / number

        def forward(params):
            ones = jnp.ones(one.shape, one.dtype)
            return model.apply(params, model_state, ones, train=False)[0]

        def curvature(params):
            def add(total, example):
                image, label = jax.tree.map(lambda x: x[None], example)

                def network(params):
                    images = prepare(image)
                    found, _ = cooled.apply(params, model_state, images, train=False)
                    return found.astype(jnp.float32)

                added = _squares(network, lambda x: loss(x, label)[0].mean(), params)
                return jax.tree.map(jnp.add, total, added), None

            total, _ = jax.lax.scan(add, wide_zeros(params), first)
            return jax.tree.map(lambda x: x / rows(first), total)

        return Evidence(loss=mean_loss, forward=forward, curvature=curvature)

    return of


def _squares(
    network: Callable[[Params], jax.Array],
    loss: Callable[[jax.Array], jax.Array],
    params: Params,
) -> Params:
    """`diag(J^T H J) = sum_i e_i (J^T u_i)^2`, by eigenvalues and vectors of `H`."""
    outputs, pulled = jax.vjp(network, params)
    curve = jax.hessian(lambda x: loss(x.reshape(outputs.shape)))(outputs.ravel())

    def add(total, pair):
        value, vector = pair
        (grads,) = pulled(vector.reshape(outputs.shape))
        return jax.tree.map(
            lambda t, g: t + value * g.astype(t.dtype) ** 2, total, grads
        ), None

    values, vectors = jnp.linalg.eigh(curve)
    return jax.lax.scan(add, wide_zeros(params), (values, vectors.T))[0]
