"""Hand-written plans: a few rows of a pattern, the name of an A and the name of a B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from sharelora.plan.plan import Entry, SharingPlan, shape_text
from sharelora.plan.site import SHAPE, SIZE, Site
from sharelora.support.errors import UserError
from sharelora.support.reading import misfit
from sharelora.support.text import nearest

FIELDS = ("path", "a", "b", "r", "part")
_OPTIONAL = {f"{name.removesuffix('?')}?": shape for name, shape in SHAPE.items()}
ROW = '{"path": "*.q_proj", "a": "q/*", "b": "{kind}/{layer}"}'


def plan_from_rows(data: Mapping[str, Any], sites: Sequence[Site], r: int) -> SharingPlan:
    """Read a hand-written plan; of the rows that match a site the first decides.

    A row is `{"path": "*.q_proj", "a": "q/*", "b": "{kind}/{layer}", "r": 8}`. Patterns are those of a shell and
    match module paths; `{kind}` and `{layer}` in a name are replaced by the site's; `r` is optional. What
    `SharingPlan.to_json` writes is a valid hand-written plan, too.

    Args:
        data: `{"sites": [row, ...]}`.
        sites: the adapted ones of the model.
        r: rank of rows that give none.

    Raises:
        UserError: a row that matches nothing, a site that no row matches, or missing fields.
    """
    rows = data.get("sites") if isinstance(data, Mapping) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f'a plan is {{"sites": [rows]}} with at least one row such as {ROW}')
    for row in rows:
        _check_row(row)
    entries, used = [], set()
    for site in sites:
        index = next((i for i, row in enumerate(rows) if _matches(row, site)), None)
        if index is None:
            raise UserError(f"no row of the plan matches {site.name}; add one, or do not target this module")
        used.add(index)
        entries.append(_entry(site, rows[index], r))
    unused = [row["path"] for i, row in enumerate(rows) if i not in used]
    if unused:
        raise UserError(f"rows of the plan match no site: {', '.join(unused[:3])}; the model has e.g. {sites[0].path}")
    return SharingPlan(tuple(entries))


def _check_row(row: Any) -> None:
    if not isinstance(row, Mapping):
        raise UserError(f"found {row!r} as a row of the plan; a row looks like {ROW}")
    missing = [field for field in ("path", "a", "b") if field not in row]
    if missing:
        raise UserError(f"a row of the plan lacks {', '.join(missing)}; a row looks like {ROW}")
    for field in ("path", "a", "b"):
        if not isinstance(row[field], str):
            raise UserError(f"in a row of the plan {field} is {row[field]!r}, not text; a row looks like {ROW}")
    if fault := misfit(dict(row), _OPTIONAL):
        raise UserError(f"a row of the plan has {fault}; a row looks like {ROW}")
    # The rows of a saved plan also describe their site.
    unknown = [field for field in row if field not in (*FIELDS, *Site.__dataclass_fields__)]
    if unknown:
        near = nearest(unknown[0], FIELDS)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"a row of the plan has an unknown field {unknown[0]!r}; need {', '.join(FIELDS)}{hint}")


def _matches(row: Mapping[str, Any], site: Site) -> bool:
    part = row.get("part")
    return (fnmatchcase(site.path, row["path"]) and part in (None, site.part)) or row["path"] == site.name


def _entry(site: Site, row: Mapping[str, Any], r: int) -> Entry:
    sizes = {name: row.get(name, getattr(site, name)) for name in ("d_in", "d_out", "kernel")}
    given = replace(site, **sizes | {"kernel": tuple(sizes["kernel"])})
    if given != site:
        raise UserError(
            f"the plan's {row['path']} maps {_features(given, ' features')}, the model's {_features(site)}; "
            "take the plan of this model, or leave out d_in and d_out"
        )
    rank = row.get("r", r)
    if not isinstance(rank, int) or rank not in SIZE:
        raise UserError(f"the plan gives {site.name} rank {rank!r}; a rank is a whole number of 1 or more")
    shape_a, shape_b = site.shapes(rank)
    return Entry(site, rank, _expand("A", row["a"], site, shape_a), _expand("B", row["b"], site, shape_b))


def _features(site: Site, unit: str = "") -> str:
    kernel = f" through a kernel of {shape_text(site.kernel)}" if site.kernel else ""
    return f"{site.d_in} to {site.d_out}{unit}{kernel}"


def _expand(side: str, template: str, site: Site, shape: Sequence[int]) -> str:
    """Return the full name of a matrix; those of a saved plan, which can be edited by hand, are full already."""
    name = template.replace("{kind}", site.kind).replace("{layer}", str(site.layer)).replace(".", "/")
    prefix, suffix = f"lora_{side}/", f"/{shape_text(shape)}"
    return prefix + name.removeprefix(prefix).removesuffix(suffix) + suffix
