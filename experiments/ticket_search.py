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

from experiments.study.config import Config
from experiments.study.study import common, run, ticket_methods


def experiment(config: Config) -> list[dict]:
    """Runs a ticket search as its settings say; see `run.run`."""
    return run.run("Ticket search", config, ticket_methods.method)


if __name__ == "__main__":
    common.main(experiment, Config)
