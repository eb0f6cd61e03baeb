"""A few pictures of many sizes, prepared as TFDS prepares ImageNet.

TFDS finds a data set's class in a package; the files are then renamed to the data set
that they stand for, of which the class needs archives that are not here.
"""

import io
import json
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

CLASSES = 3
SIZES = ((40, 56), (64, 48), (33, 35))  # heights and widths, by turns


def picture(row: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Smooth, so that a JPEG of it is nearly it; its class is the brightest channel."""
    height, width = size or SIZES[row % len(SIZES)]
    y, x = np.mgrid[:height, :width] / max(height, width)
    wave = 60 + 40 * np.sin(4 * x + row) * np.cos(3 * y + 2 * row)
    image = np.stack([wave] * 3, axis=-1)
    image[..., row % CLASSES] += 90
    return image.astype(np.uint8)


class Prepared(tfds.core.GeneratorBasedBuilder):
    """Pictures as JPEG, of many sizes or of one."""

    VERSION = tfds.core.Version("1.0.0")
    SIZE = None

    def _info(self):
        shape = (*(self.SIZE or (None, None)), 3)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape, encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=1000),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._examples(0, 36), "validation": self._examples(36, 48)}

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, first, last):
        for row in range(first, last):
            file = io.BytesIO()
            Image.fromarray(picture(row, self.SIZE)).save(file, "jpeg", quality=95)
            file.seek(0)
            yield row, {"image": file, "label": row % CLASSES}


def prepare(folder: str | Path, name: str, version: str, size=None) -> None:
    """Writes `folder/name/version`.

    Args:
      folder: a `data_dir` of TFDS.
      name: of the data set that the pictures stand for, with its configuration.
      version: of it.
      size: of every picture; default: of many sizes.
    """
    Prepared.SIZE = size
    builder = Prepared(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    there, stem = Path(builder.data_dir), name.partition("/")[0]
    for file in there.iterdir():
        file.rename(there / file.name.replace("prepared-", f"{stem}-"))
    info = json.loads((there / "dataset_info.json").read_text())
    info |= {"name": stem, "version": version}
    if "/" in name:
        info["configName"] = name.partition("/")[2]
    (there / "dataset_info.json").write_text(json.dumps(info))
    target = Path(folder) / name / version
    target.parent.mkdir(parents=True)
    there.rename(target)
