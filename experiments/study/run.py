"""The door of every experiment: from settings to results, report and tables."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.study.settings import Settings, resolve
from experiments.study.study import common


def run(
    title: str,
    config: Settings,
    build: Callable,
    *,
    finish: Callable[[Any], None] = lambda study: None,
) -> list[dict]:
    """Runs an experiment as its settings say and writes its report.

    Args:
      title: what the report calls it.
      config: what to do; `resolve` fills in what is left open.
      build: what makes a `Method` of each name, as `ticket_methods.method` does.
      finish: called with the finished `study.Study`, before its report is written.

    Returns:
      The rows of `results.csv`.

    Raises:
      ValueError: bad settings, before any training.
    """
    common.use_devices(compilation_cache=config.compilation_cache)
    config = resolve(config)

    from experiments import layouts, report, study
    from jaxticket import data

    dataset = data.load(
        config.dataset,
        data_dir=config.data_dir,
        cache_dir=config.cache_dir,
        validation=config.validation,
    )
    if config.batch_size > (size := len(dataset.train.labels)):
        raise ValueError(
            f"--batch_size {config.batch_size} is more than the {size} training images"
        )
    work = layouts.study(
        config.lanes,
        config.searches(),
        config.turns,
        Path(config.output_dir),
        lambda layout: study.Study(config, dataset, layout, build),
    )
    common.open_output(
        config,
        work.folder,
        experiment=title,
        verdicts=config.VERDICTS,
        data=dataset.checksum,
        layout={"lanes": work.layout.per_device, "width": work.layout.width},
    )
    print(
        f"{', '.join(config.methods)} on {dataset.name} with {config.model}: "
        f"{config.seeds} seeds, {work.layout.width} searches at a time",
        file=sys.stderr,
    )
    work.run()
    finish(work)
    report.write(work.folder)
    report.show(work.folder, verdicts=config.VERDICTS)
    print(f"report: {work.folder / 'report.html'}")
    return work.records.rows
