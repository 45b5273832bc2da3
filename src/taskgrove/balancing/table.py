"""The balancing methods that are known by name."""

from taskgrove.balancing import (
    aligned_mtl,
    cagrad,
    con_fig,
    dualproj,
    dwa,
    fairgrad,
    famo,
    fixed,
    gls,
    graddrop,
    gradnorm,
    gradvac,
    imtl_g,
    imtl_l,
    mean,
    mgda,
    moco,
    nash,
    pcgrad,
    rlw,
    uncertainty,
    upgrad,
)
from taskgrove.balancing.choice import Choice
from taskgrove.errors import TaskgroveError, did_you_mean, listed

BALANCERS: dict[str, Choice] = {
    "mean": mean.CHOICE,
    "sum": mean.SUM,
    "dwa": dwa.CHOICE,
    "famo": famo.CHOICE,
    "fixed": fixed.CHOICE,
    "gls": gls.CHOICE,
    "imtl_l": imtl_l.CHOICE,
    "rlw": rlw.CHOICE,
    "uncertainty": uncertainty.CHOICE,
    "gradnorm": gradnorm.CHOICE,
    "aligned_mtl": aligned_mtl.CHOICE,
    "cagrad": cagrad.CHOICE,
    "con_fig": con_fig.CHOICE,
    "dualproj": dualproj.CHOICE,
    "fairgrad": fairgrad.CHOICE,
    "gradvac": gradvac.CHOICE,
    "imtl_g": imtl_g.CHOICE,
    "mgda": mgda.CHOICE,
    "nash": nash.CHOICE,
    "pcgrad": pcgrad.CHOICE,
    "upgrad": upgrad.CHOICE,
    "graddrop": graddrop.CHOICE,
    "moco": moco.CHOICE,
}


def choice_of(name: str) -> Choice:
    """The method called `name`."""
    if name not in BALANCERS:
        hint = did_you_mean(name, BALANCERS)
        raise TaskgroveError(
            f'there is no balancing method "{name}"; there are {listed(BALANCERS, 30)}.{hint}'
        )
    return BALANCERS[name]
