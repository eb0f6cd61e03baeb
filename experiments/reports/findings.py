"""What experiments find beside the rows of their trainings: a file each, and its words.

A finding is a module with

    FILE      the name of the file in the folder of a run, a CSV table;
    COLUMNS   its columns, and what kind of values they hold;

and what it has to say, of these what there is:

    headlines `rows -> [sentence]`;
    sections  `rows -> [tables.Table]`;
    drawn     `rows -> {name: (drawing, caption)}`;
    TERMS     term -> what it means, for the page.

Of a run that has the file, the report says it; what writes it is the experiment.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd

from experiments.reports import (
    adjacency,
    barriers,
    costs,
    deleted,
    distances,
    loss_changes,
    mask_distances,
    multiplicity,
    overlaps,
    permuted,
    reading,
    reset_layers,
    small_networks,
    values,
)

ASKED: tuple[ModuleType, ...] = (  # by the run itself
    small_networks,
    costs,
    permuted,
    deleted,
    reset_layers,
    mask_distances,
    barriers,
    multiplicity,
    loss_changes,
)
# Of a run that asked something else, whose own answer comes before theirs.
AFTERWARDS: tuple[ModuleType, ...] = (overlaps, distances, values, adjacency)
FINDINGS = (*ASKED, *AFTERWARDS)


def of(
    folder: Path, findings: Iterable[ModuleType] = FINDINGS
) -> Iterator[tuple[ModuleType, pd.DataFrame]]:
    """Those of a run, with their rows.

    Raises:
      ValueError: a file is damaged, or lacks columns or rows.
    """
    for finding in findings:
        if (path := folder / finding.FILE).exists():
            yield finding, reading.table(path, finding.COLUMNS)
