"""bound: a balancing method bound to the parameters of a model that is trained."""

from taskgrove.balancing import Balancer, Choice
from taskgrove.balancing.table import choice_of
from taskgrove.balancing.task_sam import Flat, TaskSAM
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training.options import Options

Named = str | Choice | Flat


def refuse(method: Named, options: Options) -> None:
    """What a method cannot do, told before anything is trained."""
    if isinstance(method, Flat):
        if options.level != "parameters" or options.every > 1:
            raise TaskgroveError(
                "sharpness-aware steps (sam_mtl) climb along exact gradients in each step: leave"
                " out --level and --every"
            )
        return
    choice = choice_of(method) if isinstance(method, str) else method
    if choice.tracks and options.level == "features":
        name = method if isinstance(method, str) else "this method"
        raise TaskgroveError(
            f"{name} keeps a state as long as a gradient, which at the features changes with the"
            " batch: leave out --level, or the method"
        )


def bound(
    method: Named, model: MultiTaskModel, task_set: TaskSet, options: Options, seed: int
) -> Balancer | TaskSAM:
    """The balancer of the model's trunks; Flat looks at exact gradients in each step."""
    refuse(method, options)
    numbers = [task_set.tasks[name].kind == "number" for name in model.tasks]
    if not isinstance(method, Flat):
        return Balancer(
            method,
            len(numbers),
            shared=model.common,
            level=options.level,
            every=options.every,
            watch=options.watch,
            seed=seed,
            numbers=numbers,
        )
    return TaskSAM(
        method.method,
        len(numbers),
        shared=model.common,
        model=model,
        rho_shared=method.rho,
        split=method.split,
        seed=seed,
        numbers=numbers,
    )
