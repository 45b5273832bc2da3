"""Hooks: how a part acts at a module of the trunk, which keeps its modules, names and weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from taskgrove.sharing.choice import Point
from taskgrove.sharing.route import Route


@dataclass
class Here:
    """The route in force, seen by all hooks of one attachment, and the sites that were met."""

    route: Route | None = None
    met: set[str] = field(default_factory=set)


def attach(trunk: nn.Module, site: str, point: Point, here: Here) -> Any:
    """Hooks a point to a module; returns what undoes it."""
    module = trunk.get_submodule(site)
    if point.when == "instead":
        plain = module.forward
        module.forward = partial(_instead, site, point, here, plain)
        return partial(setattr, module, "forward", plain)
    if point.when == "before":
        return module.register_forward_pre_hook(
            partial(_before, site, point, here), with_kwargs=True
        ).remove
    if point.when == "around":
        into = module.register_forward_pre_hook(partial(_into, site, point, here), with_kwargs=True)
        out = module.register_forward_hook(partial(_out_of, point, here))
        return lambda: (into.remove(), out.remove())
    return module.register_forward_hook(partial(_after, site, point, here), with_kwargs=True).remove


def _after(
    site: str, point: Point, here: Here, _: nn.Module, args: Any, kwargs: Any, output: Any
) -> Any:
    if here.route is None:
        return output
    here.met.add(site)
    x = args[0] if args else next(iter(kwargs.values()))
    if isinstance(output, tuple):
        return (point.f(x, output[0], here.route), *output[1:])
    return point.f(x, output, here.route)


def _before(site: str, point: Point, here: Here, _: nn.Module, args: Any, kwargs: Any) -> Any:
    if here.route is None:
        return args, kwargs
    here.met.add(site)
    if args:
        return (point.f(args[0], here.route), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: point.f(kwargs[name], here.route)}


def _instead(
    site: str, point: Point, here: Here, plain: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """In place of a module's forward, so that the trunk's modules, names and weights stay."""
    if here.route is None:
        return plain(*args, **kwargs)
    here.met.add(site)
    x = args[0] if args else next(iter(kwargs.values()))
    return point.f(x, here.route)


def _into(site: str, point: Point, here: Here, _: nn.Module, args: Any, kwargs: Any) -> Any:
    if here.route is None:
        return args, kwargs
    here.met.add(site)
    return point.f(args, kwargs, here.route)


def _out_of(point: Point, here: Here, _: nn.Module, __: Any, output: Any) -> Any:
    if here.route is None or point.out is None:
        return output
    if isinstance(output, tuple):
        return (point.out(output[0], here.route), *output[1:])
    return point.out(output, here.route)
