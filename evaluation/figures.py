"""What the parts of a report are made of, and how they become JSON."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
KEYED = {
    "per_snr": "snr",
    "per_class": "class",
    "per_kind": "kind",
}  # fields that are lists in JSON, and their keys there


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval, [low, high]: over particles, or for a count of clusters over clusterings of some.

    value: None where it could not be computed; `reason` says why, here or in the part that holds the figure.
    interval: None also where fewer than two resamples have the figure, and where none was asked for.
    """

    value: float | None
    interval: list[float] | None
    reason: str = ""


NO_FIGURE = Figure(None, None)


@dataclass(frozen=True)
class BySnr(Generic[T]):
    """Figures of all rows; and of those of each SNR level, level -> figures, in order, empty for a single level."""

    overall: T
    per_snr: dict[str, T]

    def columns(self) -> list[T]:
        """The figures of all rows, then those of each level."""
        return [self.overall, *self.per_snr.values()]


def plain(part: Any) -> Any:
    """Dataclasses, and what holds them, as dictionaries and lists for JSON.

    Fields become keys, with these rules. A field that has a default is left out where it holds that. A `Figure` makes
    two keys, NAME and NAME_interval. What `overall` holds stands beside the other fields. The dictionaries of KEYED
    become lists of dictionaries, each with its key among the others. An underscore at the end (`class_`) is left out.
    """
    if isinstance(part, dict):
        return {str(key): plain(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [plain(value) for value in part]
    if not is_dataclass(part):
        return part
    content = {}
    for field in fields(part):
        name, value = field.name.rstrip("_"), getattr(part, field.name)
        if value == field.default:
            continue
        if name == "overall":
            content |= plain(value)
        elif isinstance(value, Figure):
            content |= {name: value.value, f"{name}_interval": value.interval}
        elif name in KEYED and value is not None:
            content[name] = [{KEYED[name]: str(key), **plain(one)} for key, one in value.items()]
        else:
            content[name] = plain(value)
    return content
