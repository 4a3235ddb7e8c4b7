"""`Compiler`: numba's, with the passes that the engine's own functions need and nothing between.

Half of numba's passes look for what plain loops over arrays do not have (closures, `with`, literals
that decide a type, expressions of whole arrays).  After each, numba works out anew where every
variable is last read, to end the life of what it refers to; the engine's refer to nothing that is
counted.  What a user writes as a policy goes through all of numba's.
"""

from __future__ import annotations

from typing import Any

from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.interpreter import Interpreter
from numba.core.ir_utils import build_definitions
from numba.core.ssa import reconstruct_ssa
from numba.core.transforms import canonicalize_cfg
from numba.core.typed_passes import (
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs


class Reader(Interpreter):
    """Bytecode as it stands: no function is called with a list of arguments or opens a file."""

    def post_process(self, _peepholes: Any, func_ir: Any) -> Any:
        """What was read."""
        return func_ir


class Passes(PassManager):
    """From bytecode to machine code."""

    def run(self, state: Any) -> None:
        """Of the function that `state` holds, which ends up holding what was compiled."""
        state.func_ir = Reader(state.func_id).interpret(state.bc)
        FixupArgs().run_pass(state)
        state.func_ir.blocks = canonicalize_cfg(state.func_ir.blocks)
        self._redefine(state, reconstruct_ssa(state.func_ir))
        NopythonTypeInference().run_pass(state)
        self._redefine(state, PreLowerStripPhis()._strip_phi_nodes(state.func_ir))
        for last in AnnotateTypes, NativeLowering, NoPythonBackend:
            last().run_pass(state)

    @staticmethod
    def _redefine(state: Any, func_ir: Any) -> None:
        func_ir._definitions = build_definitions(func_ir.blocks)
        state.func_ir = func_ir


class Compiler(CompilerBase):
    """numba's, by `Passes`."""

    def define_pipelines(self):
        """The one list of passes."""
        return [Passes("engine")]
