"""`taskgrove init`: a first tasks.yaml for files that nobody has described yet.

The first rows of each file are looked at; each line of the result says why it is there, so that its
reader can correct it. Nothing is written here.
"""

from dataclasses import dataclass
from pathlib import Path

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.columns import plain_list
from taskgrove.tasks.look import Look, look, sounds_like_target
from taskgrove.tasks.sample import ROWS, Sample, grouped, sample
from taskgrove.tasks.yaml_text import line, path_from, quoted, wrapped

Field = tuple[str, str]  # YAML value, reason


@dataclass(frozen=True)
class Proposal:
    """What one source (a file, or files that are its splits) offers."""

    name: str
    shared: dict[str, Field]  # data, inputs, key, split
    targets: list[Look]
    unused: list[Look]
    whole: bool
    folder_of_images: bool

    @property
    def modalities(self) -> tuple[str, ...]:
        """What its inputs are: text, image or the columns of a table."""
        return tuple(k for k in ("text", "image") if k in self.shared) or tuple(
            self.shared[k][0] for k in ("numbers", "categories") if k in self.shared
        )


def propose(files: list[Path], folder: Path = Path()) -> str:
    """The text of a tasks.yaml that would stand in `folder`; it loads with `load_tasks`."""
    if not files:
        raise TaskgroveError(
            "no file is named; give at least one, such as: taskgrove init rows.csv"
        )
    samples = [sample(Path(file)) for file in files]
    proposals = [_propose(group, folder) for group in grouped(samples)]
    fitting = [p for p in proposals if p.modalities == proposals[0].modalities]
    other = [p for p in proposals if p.modalities != proposals[0].modalities]
    common = {
        key: field
        for key, field in fitting[0].shared.items()
        if all(p.shared.get(key, ("",))[0] == field[0] for p in fitting)
    }
    lines = _heading(files, all(p.whole for p in proposals))
    lines += [line(f"{key}: {value}", why) for key, (value, why) in common.items()]
    lines += _defaults(fitting[0])
    lines += ["tasks:", *_tasks(fitting, common)]
    for proposal in fitting:
        if proposal.unused:
            columns = "; ".join(f"{c.name} ({c.why})" for c in proposal.unused)
            lines += wrapped(f"Not used of {proposal.name}: {columns}.")
    for proposal in other:
        lines += wrapped(
            f"Not used: {proposal.name}. It offers {plain_list(proposal.modalities)} as input, the "
            f"tasks above {plain_list(fitting[0].modalities)}; one backbone serves all tasks, so "
            "it needs a tasks file of its own."
        )
    return "\n".join(lines) + "\n"


def _propose(parts: dict[str | None, Sample], folder: Path) -> Proposal:
    """Decides the role of every column of one source."""
    one = parts.get("train") or next(iter(parts.values()))
    if len(parts) > 1:
        paths = {s: path_from(part.path, folder) for s, part in parts.items()}
        order = [s for s in ("train", "validation", "test") if s in paths]
        data = "{" + ", ".join(f"{s}: {paths[s]}" for s in order) + "}"
    else:
        data = path_from(one.path, folder)
    shared: dict[str, Field] = {"data": (data, "")}
    if one.images:
        shared["image"] = ("image", "a folder of images: its sub-folders are the labels")
        return Proposal(
            one.path.name, shared, [look("label", one.columns["label"])], [], True, True
        )
    looks = [look(name, values) for name, values in one.columns.items()]
    key = next((c for c in looks if c.role == "key"), None)
    if key:
        shared["key"] = (quoted(key.name), f"{key.why}: its rows stay in one split")
        keys = one.columns[key.name]
        looks = [c if c is key else look(c.name, one.columns[c.name], keys) for c in looks]
    split = next((c for c in looks if c.role == "split"), None)
    if split and len(parts) == 1:
        shared["split"] = (quoted(split.name), split.why)
    inputs, read, targets = _inputs(looks, one.path.name)
    shared.update(inputs)
    used = [*read, *targets, *(c for c in (key, split) if c)]
    unused = [c for c in looks if c not in used]
    if not targets:
        raise TaskgroveError(
            f"{one.path.name} has no column that could be a target: few different values "
            f"(classes), numbers, or separated labels; it has {plain_list(one.columns)}"
        )
    return Proposal(one.path.name, shared, targets, unused, one.whole, False)


def _inputs(looks: list[Look], name: str) -> tuple[dict[str, Field], list[Look], list[Look]]:
    """The input fields, the columns they read, and the columns left as targets."""
    targets = [c for c in looks if c.role in ("classes", "labels", "number")]
    texts = sorted((c for c in looks if c.role == "text"), key=lambda c: -c.size)
    image = next((c for c in looks if c.role == "image"), None)
    fields: dict[str, Field] = {}
    if texts:
        more = [quoted(c.name) for c in texts]
        hint = f"; to read more: [{', '.join(more)}]" if len(more) > 1 else ""
        fields["text"] = (more[0], f"the longest {texts[0].why}{hint}")
    if image:
        fields["image"] = (quoted(image.name), f"it holds {image.why}")
    if fields:
        return fields, [*texts[:1], *([image] if image else [])], targets
    named = [c for c in targets if sounds_like_target(c.name)] or targets[-1:]
    rest = [c for c in targets if c not in named and c.role != "labels"]
    if not rest:
        raise TaskgroveError(
            f"{name} has no column that could be an input: a text, an image, or numbers and "
            f"categories besides the target; it has {plain_list(c.name for c in looks)}"
        )
    why = "no text and no image: the other columns are the input; a target may not stand here"
    numbers = [quoted(c.name) for c in rest if c.role == "number"]
    categories = [quoted(c.name) for c in rest if c.role == "classes"]
    if numbers:
        fields["numbers"] = (f"[{', '.join(numbers)}]", why)
    if categories:
        fields["categories"] = (f"[{', '.join(categories)}]", "few different values each")
    return fields, rest, named


def _tasks(proposals: list[Proposal], common: dict[str, Field]) -> list[str]:
    lines: list[str] = []
    used: set[str] = set()
    targets = [c.name for p in proposals for c in p.targets]
    for proposal in proposals:
        own = [f"{k}: {v}" for k, (v, _) in proposal.shared.items() if k not in common]
        stem = proposal.name.split(".")[0]
        for column in proposal.targets:
            name = column.name
            if proposal.folder_of_images or targets.count(name) > 1:
                name = stem if len(proposal.targets) == 1 else f"{stem}_{name}"
            while name in used:
                name += "_"
            used.add(name)
            fields = [*own, f"target: {quoted(column.name)}"]
            if column.role != "classes":
                fields.append(f"kind: {column.role}")
            if column.separator:
                fields.append(f"separator: {quoted(column.separator)}")
            why = column.why
            if column.role != "number" and (column.rare or not proposal.whole):
                fields.append("on_rare: drop")
                why += "; a label with too few rows is left out"
            lines.append(line(f"  {quoted(name)}: {{{', '.join(fields)}}}", why))
    return lines


def _heading(files: list[Path], whole: bool) -> list[str]:
    looked = "all rows" if whole else f"the first {ROWS:,} rows"
    return [
        f"# Proposed after a look at {looked} of {plain_list(Path(f).name for f in files)}.",
        "# Correct what is wrong, delete what you do not need, then run:",
        "#   taskgrove compare --tasks THIS-FILE",
    ]


def _defaults(proposal: Proposal) -> list[str]:
    """What holds unless the reader changes it, as comments."""
    lines = []
    if "split" not in proposal.shared and not proposal.shared["data"][0].startswith("{"):
        by = "the key" if "key" in proposal.shared else "the inputs' content"
        lines.append(
            line(
                "# split: {validation: 0.15, test: 0.15}", f"the default, by a stable hash of {by}"
            )
        )
    text = "text" in proposal.shared
    name = "minilm" if text else "vit" if "image" in proposal.shared else "mlp"
    default = "bag" if text else "cnn" if "image" in proposal.shared else "mlp"
    return [*lines, line(f"# backbone: {name}", f"default: {default}")]
