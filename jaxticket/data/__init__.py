"""Images and signals as whole arrays, and what happens to them inside the step.

`load` gives a `Dataset` of numpy arrays. Put them on the device once, gather batches
inside `jit`, and apply `augment` and a `normalizer` there: JAX code never sees an
iterator. Data that do not fit are read while the device trains, see `streams`. Nothing
in here knows about tickets.
"""

from jaxticket.data import pictures, streams
from jaxticket.data.dataset import (
    OPTIONS,
    Dataset,
    Split,
    load,
    of_splits,
    with_label_noise,
)
from jaxticket.data.preprocess import (
    NORMALIZATIONS,
    Corruption,
    augment,
    centre_crop,
    corrupted,
    normalizer,
    random_resized_crop,
)

__all__ = [
    "NORMALIZATIONS",
    "Corruption",
    "OPTIONS",
    "Dataset",
    "Split",
    "augment",
    "centre_crop",
    "corrupted",
    "load",
    "normalizer",
    "of_splits",
    "pictures",
    "random_resized_crop",
    "streams",
    "with_label_noise",
]
