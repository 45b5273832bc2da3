"""Single-task models: one trunk and head a task, the baseline that delta-m compares with.

The budget is divided by the mixture's rates, so each task is given as many draws as under joint
training. The fine-tunes are trained once and shared with the methods that merge them.
"""

import copy

from taskgrove.methods.method import Job, Outcome, curves, trainable
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.training.run import Record


def fine_tunes(job: Job) -> dict[str, tuple[MultiTaskModel, Record]]:
    """{task: (its own model, what its training found)}; finished ones are read back."""
    found = {}
    for number, (task, rate) in enumerate(job.rates.items()):
        model = job.model([task])
        found[task] = model, job.fit(f"single/{number}", model, share=rate)
    return found


def single(job: Job) -> Outcome:
    """All the separate models in one folder: a trunk for each task."""
    tuned = fine_tunes(job)
    names = list(tuned)
    trunks = [model.trunk(name) for name, (model, _) in tuned.items()]
    inputs = {name: model.inputs[name] for name, (model, _) in tuned.items()}
    tasks = [job.task_set.tasks[name] for name in names]
    whole = MultiTaskModel(tasks, trunks, {name: n for n, name in enumerate(names)}, inputs)
    for name, (model, _) in tuned.items():
        whole.head(name).load_state_dict(model.head(name).state_dict())
    return Outcome(
        whole,
        passes=sum(record.spent.passes for _, record in tuned.values()),
        seconds=sum(record.spent.seconds for _, record in tuned.values()),
        trainable_parameters=trainable(whole),
        curves=[curve for name, (_, record) in tuned.items() for curve in curves(record, [name])],
    )


def heads_of(job: Job, tuned: dict[str, tuple[MultiTaskModel, Record]]) -> MultiTaskModel:
    """The start's trunk under the fine-tunes' heads: what a merged trunk is put into."""
    model = job.model()
    for name, (own, _) in tuned.items():
        model.head(name).load_state_dict(copy.deepcopy(own.head(name).state_dict()))
    return model.eval()
