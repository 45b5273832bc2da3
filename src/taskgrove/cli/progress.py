"""The bar that shows what is trained, how far it is, and each task's loss."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

MOST_TASKS = 6


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
        self.bar.update(self.rows[row][0], completed=done, losses=_line(losses))


def _line(losses: Mapping[str, float]) -> str:
    """`digits 0.12  noto 1.40`, or mean and worst where there are many."""
    if len(losses) > MOST_TASKS:
        worst = max(losses, key=lambda task: losses[task])
        mean = sum(losses.values()) / len(losses)
        return f"loss {mean:.3f}, worst {worst} {losses[worst]:.3f}"
    return "  ".join(f"{task} {loss:.2f}" for task, loss in losses.items())
