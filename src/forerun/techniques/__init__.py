"""Published techniques: one a file, named by what it does; the file name is the public name.

A technique is an edit of a deployment at known seams.  Its file begins with a docstring (what it
does in one sentence, source, what it helps, what it may cost, what it assumes or ignores) and holds

    PAPERS    = ("sarathi-serve",)                  claims about it: claims/papers/<key>.yaml
    KNOBS     = {"chunk_tokens": Knob(...)}         each with the neutral value that changes nothing
    CONFLICTS = {"other_technique": "why"}          what it cannot be combined with
    def needs(case) -> list[str]                    why the paper's regime does not apply here
    def baseline(deployment) -> Deployment          what the paper compares with, on the same pools
    def edit(deployment, *, chunk_tokens) -> Edit   the change

and nothing else public.  An `Edit` carries decisions (settings, policies by name) and work
(operators, flop and bytes), never a time or a speedup: gains come out of the simulation.
"""

from forerun.techniques._compose import Edited, compose, prepare
from forerun.techniques._find import Technique, find, names
from forerun.techniques._seams import Edit, Extra, Knob

__all__ = [
    "Edit", "Edited", "Extra", "Knob", "Technique", "compose", "find", "names", "prepare",
]  # fmt: skip
