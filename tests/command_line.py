"""The command line inside the test's own process: a subprocess costs seconds of imports."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from taskgrove.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one sentence that a user's mistake earns, checked; without `taskgrove: `."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("taskgrove: "), self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("taskgrove: ")


def call(*words: object) -> Answer:
    """`taskgrove words...`; whatever ends the program without an exit code is raised."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["taskgrove", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return Answer(
        code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue()
    )


def works(*words: object) -> str:
    """The same for a command that must succeed; what it wrote to stdout."""
    answer = call(*words)
    assert answer.code == 0, answer
    return answer.out
