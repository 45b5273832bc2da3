"""The static methods by name: one a file, one explicit table."""

from taskgrove.merging.static import (
    average,
    breadcrumbs,
    consensus,
    dare,
    della,
    fisher,
    iso_c,
    model_stock,
    regmean,
    sce,
    slerp,
    task_arithmetic,
    ties,
    tsv,
    wise_ft,
)
from taskgrove.merging.static.static import Static

STATIC: dict[str, Static] = {
    "average": average.METHOD,
    "task_arithmetic": task_arithmetic.METHOD,
    "ties": ties.METHOD,
    "dare": dare.METHOD,
    "breadcrumbs": breadcrumbs.METHOD,
    "della": della.METHOD,
    "sce": sce.METHOD,
    "consensus": consensus.METHOD,
    "tsv": tsv.METHOD,
    "iso_c": iso_c.METHOD,
    "model_stock": model_stock.METHOD,
    "slerp": slerp.METHOD,
    "wise_ft": wise_ft.METHOD,
    "fisher": fisher.METHOD,
    "regmean": regmean.METHOD,
}
