"""simulation.json: the options that made a folder's files, and whether others would make them anew."""

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from common.cli import InputError


def recorded(cfg: Any, content: dict, left_out: Sequence[str]) -> dict:
    """The options of a dataclass, all on one level as on the command line, but for `left_out`; and `content`."""
    options = {}
    for name, value in vars(cfg).items():
        options |= asdict(value) if is_dataclass(value) else {name: value}
    kept = {name: value for name, value in options.items() if name not in left_out}
    return json.loads(json.dumps(kept | content).replace("Infinity", '"inf"'))


def changed_options(record: Path, options: dict, defaults: dict, ignored: Sequence[str] = ()) -> list[str]:
    """Which options differ from those of a record, but for `ignored`; one that came later had its default then.

    Raises InputError for what is no record.
    """
    try:
        before = defaults | json.loads(record.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise InputError(f"{record}: not the record of a simulation ({error}); --overwrite starts anew") from error
    return sorted(key for key in (options.keys() | before.keys()) - {*ignored} if options.get(key) != before.get(key))
