"""What `experiments.benchmark` measures: in each module, `rows(bench)`."""
