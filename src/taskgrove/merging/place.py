"""Where a merged model may go: what stands against a folder, before any work."""

import os
import shutil
from pathlib import Path

from taskgrove.merging.plan import Plan


def check_out(plan: Plan, out: Path) -> list[str]:
    """What stands against writing there."""
    if out.exists():
        return [f"{out} exists; give a folder that does not, or remove it."]
    places = [Path(p).resolve() for p in (plan.recipe.base, *plan.recipe.tuned) if p]
    if any(place in out.resolve().parents for place in places):
        return [f"{out} lies inside one of the models; write elsewhere."]
    parent = out.resolve().parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        return [f"{parent} cannot be written to."]
    free = shutil.disk_usage(parent).free
    if free < plan.written:
        return [f"{parent} has {free:,} bytes free; the result needs {plan.written:,}."]
    return []
