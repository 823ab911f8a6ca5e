"""The table of `encoderkit compare`, of what its recipes came to."""

from collections.abc import Mapping, Sequence
from typing import Any

from encoderkit.console import number, table

SHOWN = ("loss", "bits_per_byte")
"""Of held-out text, in the table; losses of different objectives are of different things."""


def describe(result: dict[str, Any]) -> str:
    """The table for a person: a line for each recipe; p says how sure the difference from the first one is."""
    return table(lines(result["recipes"]))


def lines(entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and lines; columns that no recipe has are left out."""
    cells = [_cells(entry) for entry in entries]
    names = list(dict.fromkeys(name for line in cells for name in line))
    return [names, *([line.get(name, "") for name in names] for line in cells)]


def _cells(entry: Mapping[str, Any]) -> dict[str, str]:
    cells = {"recipe": entry["name"], "parameters": number(entry["parameters"])}
    if "why" in entry:
        cells["not trained"] = entry["why"][:60]
    if "pretrain" in entry:
        done = entry["pretrain"]
        cells |= {"seconds": f"{done['seconds']:,.0f}", "tokens/s": number(done["tokens_per_second"])}
        cells |= {name.replace("_", " "): f"{done['dev'][name]:.4f}" for name in SHOWN if name in done["dev"]}
    elif "finetune" in entry:
        cells["seconds"] = f"{entry['finetune']['seconds']:,.0f}"
    for kind, figures in entry.get("suites", {}).items():
        metric = next(iter(figures.get("metrics", {})), "")
        cells |= _figure(figures, metric, kind)
        cells[f"{kind}, p"] = f"{figures['difference'][metric]['p']:.3f}" if "difference" in figures else ""
    if "metrics" in entry:
        chosen = entry["finetune"]["chosen_by"]  # None without dev; and the loss has no interval
        metric = chosen["metric"] if chosen and chosen["metric"] in entry["metrics"] else next(iter(entry["metrics"]))
        cells |= _figure(entry, metric, f"{metric}, {entry['part']}")
        cells["p"] = f"{entry['difference'][metric]['p']:.3f}" if metric in entry.get("difference", {}) else ""
        cells |= _repeats(entry["finetune"], metric)
    elif "finetune" in entry:  # each by its own part of the training data
        done = entry["finetune"]
        part = "dev" if done["chosen_by"] else "test"
        metric = done["chosen_by"]["metric"] if done["chosen_by"] else next(iter(done["test"]), "")
        cells |= {f"{metric}, {part}": f"{done[part][metric]:.4f}"} if metric in done[part] else {}
        cells |= _repeats(done, metric)
    return cells


def _figure(figures: Mapping[str, Any], metric: str, name: str) -> dict[str, str]:
    """A metric and its interval, where there are such."""
    if metric not in figures.get("metrics", {}):
        return {name: ""}
    low_high = figures.get("intervals", {}).get(metric)
    interval = {f"{name}, 95 %": f"{low_high[0]:.4f} - {low_high[1]:.4f}"} if low_high else {}
    return {name: f"{figures['metrics'][metric]:.4f}", **interval}


def _repeats(done: Mapping[str, Any], metric: str) -> dict[str, str]:
    """The mean over seeds or folds, and its interval; `metrics` are those of the best of them on dev."""
    part = "test" if done.get("test") else "dev"
    if metric not in done.get("intervals", {}).get(part, {}):
        return {}
    low, high = done["intervals"][part][metric]
    over = f"mean of {len(done['runs'])}, {part}"
    p = done.get("p", {}).get(part, {}).get(metric)
    return {over: f"{done[part][metric]:.4f} ± {(high - low) / 2:.4f}", "p over runs": "" if p is None else f"{p:.3f}"}
