"""Claims: published numbers with the case that should give them, and the runner that checks.

A paper is one file `papers/<key>.yaml` (schema: `schema.Paper`); how a kind of number is measured
is one file `measures/<name>.py`.  A claim that fails stays in its file, with our best explanation.
"""

from forerun.claims.run import Report, Result, reproduce
from forerun.claims.schema import STATUSES, Claim, Paper, load, names

__all__ = ["STATUSES", "Claim", "Paper", "Report", "Result", "load", "names", "reproduce"]
