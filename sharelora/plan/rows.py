"""Plans that a person writes: a few rows of pattern, name of A, name of B."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sharelora.plan.plan import Entry, SharingPlan
from sharelora.plan.site import Site
from sharelora.support.errors import UserError

FIELDS = ("path", "a", "b", "r", "part")
ROW = '{"path": "*.q_proj", "a": "q/*", "b": "{kind}/{layer}"}'


def _name(side: str, template: str, site: Site, shape: tuple[int, int]) -> str:
    suffix = f"/{shape[0]}x{shape[1]}"
    name = template.replace("{kind}", site.kind).replace("{layer}", str(site.layer)).replace(".", "/")
    # Names that a plan printed are taken as they are, so that a saved plan can be edited by hand.
    name = name if name.startswith(f"lora_{side}/") else f"lora_{side}/{name}"
    return name if name.endswith(suffix) else name + suffix


def _check(row: Any) -> None:
    if not isinstance(row, Mapping):
        raise UserError(f"a plan has {row!r} for a row; a row looks like {ROW}")
    missing = [field for field in ("path", "a", "b") if field not in row]
    if missing:
        raise UserError(f"a plan's row lacks {', '.join(missing)}; a row looks like {ROW}")
    for field in ("path", "a", "b"):
        if not isinstance(row[field], str):
            raise UserError(f"in a plan's row {field} is {row[field]!r}, not text; a row looks like {ROW}")
    # Rows of a saved plan also describe their site.
    unknown = [field for field in row if field not in (*FIELDS, *Site.__dataclass_fields__)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], FIELDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"a plan's row has an unknown field {unknown[0]!r}; need {', '.join(FIELDS)}{hint}")


def _selects(row: Mapping[str, Any], site: Site) -> bool:
    part = row.get("part")
    return (fnmatchcase(site.path, row["path"]) and part in (None, site.part)) or row["path"] == site.name


def plan_from_rows(data: Mapping[str, Any], sites: Sequence[Site], r: int) -> SharingPlan:
    """Read a hand-written plan: rows of a pattern and two names, the first matching row deciding.

    A row is `{"path": "*.q_proj", "a": "q/*", "b": "{kind}/{layer}", "r": 8}`. Patterns are those of a shell and
    match module paths; `{kind}` and `{layer}` in a name stand for the site's; `r` may be left out. What
    `SharingPlan.to_json` wrote is also such a plan.

    Raises:
        UserError: a row that matches nothing, a site that no row matches, or missing fields.
    """
    rows = data.get("sites") if isinstance(data, Mapping) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f'a plan is {{"sites": [rows]}} with at least one row such as {ROW}')
    entries, used = [], set()
    for row in rows:
        _check(row)
    for site in sites:
        index = next((i for i, row in enumerate(rows) if _selects(row, site)), None)
        if index is None:
            raise UserError(f"no row of the plan matches {site.name}; add one, or do not target this module")
        used.add(index)
        entries.append(_entry(site, rows[index], r))
    unused = [row["path"] for i, row in enumerate(rows) if i not in used]
    if unused:
        raise UserError(f"rows of the plan match no site: {', '.join(unused[:3])}; the model has e.g. {sites[0].path}")
    return SharingPlan(tuple(entries))


def _entry(site: Site, row: Mapping[str, Any], r: int) -> Entry:
    wanted = (row.get("d_in", site.d_in), row.get("d_out", site.d_out))
    if wanted != (site.d_in, site.d_out):
        raise UserError(
            f"the plan's {row['path']} maps {wanted[0]} to {wanted[1]} features, the model's {site.d_in} to "
            f"{site.d_out}; take the plan of this model, or leave out d_in and d_out"
        )
    rank = row.get("r", r)
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"the plan gives {site.name} rank {rank!r}; a rank is a whole number of 1 or more")
    a = _name("A", row["a"], site, (rank, site.d_in))
    b = _name("B", row["b"], site, (site.d_out, rank))
    return Entry(site, rank, a, b)
