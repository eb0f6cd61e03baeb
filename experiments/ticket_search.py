"""Finds winning tickets with many seeds, trains them beside their controls, reports.

Without flags: the digits that scikit-learn carries, five seeds, iterative magnitude
pruning and Continuous Sparsification, each ticket against the dense network, against
its mask with new weights and against its mask shuffled; under two minutes on two cores.

    python -m experiments.ticket_search

The Lottery Ticket paper's LeNet on MNIST (Frankle and Carbin 2019, Figures 3 and 4), at
eight epochs a round instead of its 50,000 steps:

    python -m experiments.ticket_search --dataset=mnist --data_dir=../shared/tfds \
        --model=lenet_300_100 --seeds=5 --methods=imp --rounds=8 --epochs=8

Run the same command again after a kill: it goes on where it was, to the same numbers.
Writes into `--output_dir`: config.json, metrics.jsonl, results.csv, figures/,
report.html, tickets/. A resumed run needs the folder work/; delete it when all is done.
"""

import sys
from pathlib import Path

from experiments import common
from experiments.config import Config, resolve


def experiment(config: Config) -> list[dict]:
    """Runs a ticket search as its settings say and writes its report.

    Args:
      config: what to do; `resolve` fills in what is left open.

    Returns:
      The rows of `results.csv`.

    Raises:
      ValueError: bad settings, before any training.
    """
    common.use_devices(compilation_cache=config.compilation_cache)
    config = resolve(config)

    from experiments import layouts, report, statistics, study
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
    run = layouts.study(
        config.lanes,
        config.seeds,
        config.turns,
        Path(config.output_dir),
        lambda layout: study.Study(config, dataset, layout),
    )
    common.open_output(
        config,
        run.folder,
        data=dataset.checksum,
        layout={"lanes": run.layout.per_device, "width": run.layout.width},
    )
    print(
        f"{', '.join(config.methods)} on {dataset.name} with {config.model}: "
        f"{config.seeds} seeds, {run.layout.width} at a time, {config.rounds} rounds",
        file=sys.stderr,
    )
    run.run()
    report.write(run.folder)
    report.print_table(statistics.summarise(run.records.rows))
    print(f"report: {run.folder / 'report.html'}")
    return run.records.rows


if __name__ == "__main__":
    common.main(experiment, Config)
