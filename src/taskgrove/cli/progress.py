"""The bar that shows what is trained, how far it is, and each task's loss."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

BESIDE = 66  # characters of a row's other columns


class Bar:
    """On a terminal a live bar for each thing under way; elsewhere a line as each part begins."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.bar = Progress(
            TextColumn("{task.fields[row]}"),
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[losses]}", markup=False),  # names of tasks are the user's
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.rows: dict[str, tuple[TaskID, str]] = {}

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def tell(self, row: str, what: str, done: float, losses: Mapping[str, float]) -> None:
        """Moves the bar of `row`; each row does one thing `what` at a time."""
        if row not in self.rows or self.rows[row][1] != what:
            if row in self.rows:
                self.bar.remove_task(self.rows[row][0])
            self.rows[row] = self.bar.add_task(what, total=1.0, row=row, losses=""), what
            if not self.console.is_terminal:
                self.console.print(f"  {row} · {what}", highlight=False)
        line = losses_line(losses, self.console.width - BESIDE)
        self.bar.update(self.rows[row][0], completed=done, losses=line)


def losses_line(losses: Mapping[str, float], room: int) -> str:
    """Every task's loss; where they are more than `room` characters mean and worst, or the mean.

    >>> losses = {"digits": 0.12, "noto": 1.4}
    >>> [losses_line(losses, room) for room in (40, 22, 12)]
    ['digits 0.12  noto 1.40', 'digits 0.12  noto 1.40', 'loss 0.760']
    """
    if not losses:
        return ""
    worst = max(losses, key=lambda task: losses[task])
    mean = f"loss {sum(losses.values()) / len(losses):.3f}"
    lines = (
        "  ".join(f"{task} {loss:.2f}" for task, loss in losses.items()),
        f"{mean}, worst {worst} {losses[worst]:.3f}",
    )
    return next((line for line in lines if len(line) <= room), mean)
