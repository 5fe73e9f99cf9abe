"""The sharing plan: which A and B every adapted layer uses, as plain frozen data; the standard library alone.

May import: support. Begin with `site` (what is adapted), `plan` (which matrices it uses), `rule` (how these are named).
"""

from sharelora.plan.plan import Entry, SharingPlan, matrix_name
from sharelora.plan.rule import SharingRule
from sharelora.plan.site import Site, matches

__all__ = ["Entry", "SharingPlan", "SharingRule", "Site", "matches", "matrix_name"]
