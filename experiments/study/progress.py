"""How far a run is: a bar in a terminal, a line a round elsewhere."""

import sys
import time


class Progress:
    """Counts stretches of work; use as a context manager."""

    def __init__(self, total: int):
        self.total = total
        self.done = 0
        self.begun = time.monotonic()
        self.bar = None

    def __enter__(self):
        if sys.stderr.isatty():
            from rich import console, progress

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left:"),
                progress.TimeRemainingColumn(),
                console=console.Console(stderr=True),
            )
            self.task = self.bar.add_task("compiling", total=self.total)
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.stop()

    def advance(self, text: str, *, say: bool) -> None:
        """Another stretch is done; where there is no bar, `say` whether to print it."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, description=text)
        elif say:
            share, seconds = self.done / self.total, time.monotonic() - self.begun
            print(
                f"[{share:4.0%} {seconds:5.0f} s] {text}", file=sys.stderr, flush=True
            )
