"""Pictures as raw columns, uint8 [batch size size 3], and the way to a network's input."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from taskgrove.backbones.backbone import Raw, column
from taskgrove.errors import TaskgroveError


def images(raw: Raw, reader: str, smallest: int = 1, multiple: int = 1) -> UInt8[Tensor, "b h w 3"]:
    """The column `image`, checked: bytes, square, three colours, a size that fits."""
    pixels = column(raw, "image", reader)
    got = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise TaskgroveError(f'"image" must be uint8 [batch, size, size, 3], but it is {got}.')
    height, width = pixels.shape[1:3]
    if height != width or width < smallest or width % multiple:
        fits = f"{smallest} or more" if multiple == 1 else f"a multiple of {multiple}"
        raise TaskgroveError(
            f'the backbone "{reader}" takes square pictures whose size is {fits} pixels,'
            f" but these are {height} x {width}: resize them, or pad them to a square."
        )
    return pixels


def centred(pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Bytes to [-1, 1], colours first."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


Filter = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Processor:
    """The part of a transformers `preprocessor_config.json` that says what a network expects."""

    resize: int  # edge after resizing; pictures are square
    crop: int  # edge of the centre crop after that
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter: Filter = "bilinear"
    scale: float = 1 / 255  # of a byte, before mean and std


def processor(settings: dict[str, Any], size: int) -> Processor:
    """Reads `preprocessor_config.json`; `size` is the model's own, used where that is silent.

    >>> crop = {"do_center_crop": True, "crop_size": 224}
    >>> to = processor({"size": {"shortest_edge": 256}, **crop}, size=224)
    >>> to.resize, to.crop, to.mean
    (256, 224, (0.5, 0.5, 0.5))
    """

    def edge(value: int | dict[str, int]) -> int:
        return min(value.values()) if isinstance(value, dict) else int(value)

    filters: dict[int, Filter] = {0: "nearest", 2: "bilinear", 3: "bicubic"}

    def three(name: str, otherwise: float) -> tuple[float, ...]:
        values = settings.get(name, [0.5] * 3) if settings.get("do_normalize", True) else None
        return tuple(float(value) for value in values or [otherwise] * 3)

    resize = edge(settings.get("size", size)) if settings.get("do_resize", True) else size
    crop = edge(settings.get("crop_size", resize)) if settings.get("do_center_crop") else resize
    return Processor(
        resize=resize,
        crop=crop,
        mean=three("image_mean", 0.0),
        std=three("image_std", 1.0),
        filter=filters.get(settings.get("resample", 2), "bilinear"),
        scale=settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0,
    )


def process(pixels: UInt8[Tensor, "b h w 3"], to: Processor) -> Float[Tensor, "b 3 H W"]:
    """Resize, crop the centre, scale, normalise; antialiased as Pillow does it."""
    x = pixels.permute(0, 3, 1, 2).float()
    if x.shape[-1] != to.resize:
        smooth = {} if to.filter == "nearest" else {"antialias": True, "align_corners": False}
        x = interpolate(x, size=(to.resize, to.resize), mode=to.filter, **smooth)
    start = (to.resize - to.crop) // 2
    x = x[:, :, start : start + to.crop, start : start + to.crop].clamp(0, 255)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (to.mean, to.std))
    return (x * to.scale - mean) / std


def settings(to: Processor) -> dict[str, Any]:
    """What `processor` reads, to be saved as `preprocessor_config.json`."""
    filters = {"nearest": 0, "bilinear": 2, "bicubic": 3}
    return {
        "do_resize": True,
        "size": {"height": to.resize, "width": to.resize},
        "resample": filters[to.filter],
        "do_center_crop": to.crop != to.resize,
        "crop_size": {"height": to.crop, "width": to.crop},
        "do_rescale": True,
        "rescale_factor": to.scale,
        "do_normalize": True,
        "image_mean": list(to.mean),
        "image_std": list(to.std),
    }
