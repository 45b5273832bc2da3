"""Inputs: which columns of a row the model reads, and as what."""

from dataclasses import asdict, dataclass
from typing import Any

from taskgrove.errors import TaskgroveError


@dataclass(frozen=True)
class Inputs:
    """Columns by role; several text columns are joined by a newline.

    >>> inputs = Inputs(text=("title", "body"))
    >>> sorted(inputs.modalities), inputs.columns, Inputs.from_json(inputs.to_json()) == inputs
    (['text'], {'title': 'string', 'body': 'string'}, True)
    """

    text: tuple[str, ...] = ()
    image: str | None = None
    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    image_size: int = 32  # images become [size, size, 3]

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of input that a backbone must read: of text, image, table."""
        given = {
            "text": bool(self.text),
            "image": self.image is not None,
            "table": bool(self.numbers or self.categories),
        }
        return frozenset(name for name, present in given.items() if present)

    @property
    def columns(self) -> dict[str, str]:
        """Each input column with the role that `readers.read` takes."""
        image = {} if self.image is None else {self.image: "image"}
        words = dict.fromkeys((*self.text, *self.categories), "string")
        return {**words, **dict.fromkeys(self.numbers, "number"), **image}

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Inputs":
        """The inverse of `to_json`."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**plain)


def merge_roles(*groups: dict[str, str]) -> dict[str, str]:
    """One role a column: text where text and numbers are both asked for (numbers are parsed later).

    >>> merge_roles({"stars": "number"}, {"stars": "string", "body": "string"})
    {'stars': 'string', 'body': 'string'}
    """
    merged: dict[str, str] = {}
    for group in groups:
        for column, role in group.items():
            before = merged.get(column, role)
            if before != role and {before, role} != {"number", "string"}:
                if "labels" in (before, role) and "image" not in (before, role):
                    merged[column] = "labels"
                    continue
                raise TaskgroveError(
                    f'column "{column}" is used as {before} and as {role}; it can be one'
                )
            merged[column] = role if before == role else "string"
    return merged
