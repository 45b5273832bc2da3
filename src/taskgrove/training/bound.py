"""bound: a balancing method bound to the parameters of a model that is trained."""

from taskgrove.balancing import Balancer, Choice
from taskgrove.balancing.task_sam import Flat, TaskSAM
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training.options import Options

Named = str | Choice | Flat


def bound(
    method: Named, model: MultiTaskModel, task_set: TaskSet, options: Options, seed: int
) -> Balancer | TaskSAM:
    """The balancer of the model's trunks; Flat looks at exact gradients in each step."""
    numbers = [task_set.tasks[name].kind == "number" for name in model.tasks]
    if not isinstance(method, Flat):
        return Balancer(
            method,
            len(numbers),
            shared=model.trunks,
            level=options.level,
            every=options.every,
            watch=options.watch,
            seed=seed,
            numbers=numbers,
        )
    if options.level != "parameters" or options.every > 1:
        raise TaskgroveError(
            "sharpness-aware steps climb along exact gradients in each step: leave out"
            " --level and --every"
        )
    return TaskSAM(
        method.method,
        len(numbers),
        shared=model.trunks,
        model=model,
        rho_shared=method.rho,
        split=method.split,
        seed=seed,
        numbers=numbers,
    )
