"""LoRA folders of PEFT: one task's slice out of the stacked tensors, and back, exact.

    base_model.model.SITE.lora_A.weight  [rank dim]   = A[t]
    base_model.model.SITE.lora_B.weight  [out rank]   = B[t]^T

`adapter_config.json` holds r, lora_alpha, use_rslora and the sites as target_modules; sites of
other ranks stand in rank_pattern and alpha_pattern. Several folders become the tasks of one
Sharing: they must adapt the same modules with the same settings, as stacked tensors do.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.files.adapter import parts as sorted_parts
from taskgrove.merging.files.adapter_config import AdapterConfig, adapter_config
from taskgrove.sharing.choice import sides
from taskgrove.sharing.lora import LoRA, LoRAParts
from taskgrove.sharing.routed_lora import RoutedLoRAParts
from taskgrove.sharing.sharing import Rule, Sharing

CONFIG, WEIGHTS, WRAPPED = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
Factors = dict[str, tuple[Tensor, Tensor, LoRA]]  # site -> A [rank dim], B [rank out], settings


def export_lora(
    sharing: Sharing, task: str, folder: str | Path, *, prefix: str = "", base: str = ""
) -> None:
    """Writes one task's LoRA as PEFT does; `prefix` is what the trunk puts before the base's names.

    Only LoRA parts can be written so; other parts of the same trunk are refused by name.
    """
    if task not in sharing.tasks:
        hint = did_you_mean(task, sharing.tasks)
        raise TaskgroveError(f'there is no task "{task}"; there are {listed(sharing.tasks)}.{hint}')
    write_folder(factors(sharing, sharing.tasks.index(task)), folder, prefix=prefix, base=base)


def factors(sharing: Sharing, number: int) -> Factors:
    """A [rank dim], B [rank out] and the settings of a task at each site."""
    found: Factors = {}
    for parts in sharing.parts:
        if not isinstance(parts, LoRAParts | RoutedLoRAParts):
            raise TaskgroveError(
                f"{type(parts).__name__} is no LoRA: PEFT's folder has no place for it; save the"
                " model folder instead"
            )
        for site in parts.points():
            A, B = parts.of_task(site, number)
            rank, alpha = parts.choice.rank, parts.choice.alpha
            routed = isinstance(parts, RoutedLoRAParts)
            choice = LoRA(rank=rank, alpha=alpha) if routed else parts.choice
            found[site] = A.detach(), B.detach(), choice
    return found


def write_folder(found: Factors, folder: str | Path, *, prefix: str = "", base: str = "") -> None:
    """Factors as a PEFT folder, written aside and renamed."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TaskgroveError(f"{folder} exists and is not an empty folder: give another")
    tensors, (first, *_) = {}, [choice for _, _, choice in found.values()]
    ranks, alphas = {}, {}
    for site, (A, B, choice) in found.items():
        name = site.removeprefix(prefix)
        tensors[f"{WRAPPED}{name}.lora_A.weight"] = A.cpu().contiguous()
        tensors[f"{WRAPPED}{name}.lora_B.weight"] = B.t().cpu().contiguous()
        if choice.stabilised != first.stabilised:
            raise TaskgroveError("PEFT has one use_rslora for all modules: rules differ in it")
        if (choice.rank, choice.alpha) != (first.rank, first.alpha):
            ranks[name], alphas[name] = choice.rank, choice.alpha
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout,
        "use_rslora": first.stabilised,
        "target_modules": [site.removeprefix(prefix) for site in found],
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": "none",
        "inference_mode": True,
        "task_type": None,
    }
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(tensors, aside / WEIGHTS)
    (aside / CONFIG).write_text(json.dumps(config, indent=1), "utf-8")
    os.replace(aside, folder)


def import_lora(
    trunk: nn.Module, folders: Mapping[str, str | Path], *, prefix: str = ""
) -> Sharing:
    """PEFT folders as the tasks of one Sharing, their numbers in the order given.

    Raises TaskgroveError where folders differ in modules or settings, or are no plain LoRA.
    """
    read = {task: _read(trunk, Path(folder), prefix) for task, folder in folders.items()}
    if not read:
        raise TaskgroveError("no LoRA folder was given: give at least one")
    first_task, first = next(iter(read.items()))
    for task, found in read.items():
        _alike(folders[first_task], first, folders[task], found)
    sharing = Sharing(trunk, _rules(first), list(read))
    with torch.no_grad():
        for parts in sharing.parts:
            assert isinstance(parts, LoRAParts)
            for site in parts.points():
                for number, found in enumerate(read.values()):
                    A, B = parts.of_task(site, number)
                    A.copy_(found[site][0])
                    B.copy_(found[site][1])
    return sharing


def _rules(found: Factors) -> list[Rule]:
    """A rule for each setting, its sites by name."""
    sites: dict[LoRA, list[str]] = {}
    for site, (_, _, choice) in found.items():
        sites.setdefault(choice, []).append(site)
    return [(tuple(names), choice) for choice, names in sites.items()]


def _read(trunk: nn.Module, folder: Path, prefix: str) -> Factors:
    config = adapter_config(folder)
    if config.dora:  # fan_in_fan_out tells of the base's weight, which is not touched here
        raise TaskgroveError(f"{folder} uses DoRA: only plain LoRA can be attached; merge it")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise TaskgroveError(
            f"{folder / WEIGHTS} cannot be read as safetensors ({error}): save the adapter again"
        ) from None
    kept = sorted_parts(tensors)
    if kept.saved or any(set(of) != {"A", "B"} for of in kept.modules.values()):
        more = [*kept.saved, *(m for m, of in kept.modules.items() if set(of) != {"A", "B"})]
        raise TaskgroveError(
            f"{folder} holds more than A and B ({listed(more, 3)}): only plain LoRA can be attached"
        )
    modules = dict(trunk.named_modules())
    found: Factors = {}
    for module, of in kept.modules.items():
        site = prefix + module
        A, B = tensors[of["A"]], tensors[of["B"]].t()
        _fits(folder, modules, site, A, B)
        found[site] = A, B, _settings(config, module, len(A))
    return found


def _settings(config: AdapterConfig, module: str, rank: int) -> LoRA:
    """The choice whose scale is this module's."""
    scale = config.scale(module)
    alpha = scale * (rank**0.5 if config.rslora else rank)
    return LoRA(rank=rank, alpha=round(alpha, 9), stabilised=config.rslora)


def _fits(folder: Path, modules: Mapping[str, Any], site: str, A: Tensor, B: Tensor) -> None:
    found = None if site not in modules else sides(modules[site])
    if found is None:
        have = [name for name, module in modules.items() if sides(module) is not None]
        raise TaskgroveError(
            f'{folder} adapts "{site}", which is no linear layer of this trunk; it has'
            f" {listed(have, 6)}.{did_you_mean(site, have)}"
        )
    if (B.shape[1], A.shape[1]) != found:
        raise TaskgroveError(
            f'{folder} adapts "{site}" from {A.shape[1]} to {B.shape[1]}, but this trunk has'
            f" {found[1]} to {found[0]}: it belongs to another base"
        )


def _alike(one: str | Path, first: Factors, other: str | Path, found: Factors) -> None:
    """Raises TaskgroveError unless both adapt the same modules with the same settings."""
    differ: Sequence[str] = sorted(first.keys() ^ found.keys())
    what = "adapt other modules"
    if not differ:
        differ = [site for site in first if first[site][2] != found[site][2]]
        what = "have another rank or scale"
    if differ:
        raise TaskgroveError(
            f"{one} and {other} {what} ({listed(differ, 6)}): tasks of one model share them;"
            " attach them to a model each, or train them alike"
        )
