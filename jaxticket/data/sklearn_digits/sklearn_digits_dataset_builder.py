"""A TFDS builder around `digits.arrays`, for tools that speak TFDS.

Importing this module registers the name `sklearn_digits`. Preparing it needs neither
TensorFlow nor a network::

    builder = tfds.builder("sklearn_digits", data_dir=DIR, file_format="array_record")
    builder.download_and_prepare()

and `jaxticket.data.load("sklearn_digits", data_dir=DIR)` reads it again.
"""

import numpy as np
import tensorflow_datasets as tfds

from jaxticket.data import digits


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """The 8x8 digits that scikit-learn carries, as a TFDS data set."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        # `Tensor`, since `Image` needs TensorFlow to encode; unshuffled, so that the
        # arrays equal the direct ones.
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,797 digits of 8x8 pixels, values 0..16.",
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split):
        for i, (image, label) in enumerate(zip(*digits.arrays(split), strict=True)):
            yield i, {"image": image, "label": int(label)}
