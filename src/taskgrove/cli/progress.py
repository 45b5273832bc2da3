"""The bar that shows what is trained, how far it is, and each task's loss."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

MOST_TASKS = 7


class Bar:
    """A live bar on a terminal; elsewhere one line as each part ends."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.bar = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.shown: dict[str, TaskID] = {}

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def tell(self, what: str, done: float, losses: Mapping[str, float]) -> None:
        """Moves the bar of `what`; a new name ends the bar before."""
        if what not in self.shown:
            for old in self.shown.values():
                self.bar.update(old, visible=False)
            self.shown[what] = self.bar.add_task(what, total=1.0, losses="")
            if not self.console.is_terminal:
                self.console.print(f"  {what}", highlight=False)
        self.bar.update(self.shown[what], completed=done, losses=_line(losses))


def _line(losses: Mapping[str, float]) -> str:
    """`digits 0.12  noto 1.40`, or mean and worst where there are many."""
    if len(losses) > MOST_TASKS:
        worst = max(losses, key=lambda task: losses[task])
        mean = sum(losses.values()) / len(losses)
        return f"loss {mean:.3f}, worst {worst} {losses[worst]:.3f}"
    return "  ".join(f"{task} {loss:.2f}" for task, loss in losses.items())
