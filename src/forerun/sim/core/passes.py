"""`Compiler`: numba's, with the passes that the engine's own functions need and no others.

Half of numba's passes look for what plain loops over arrays do not have (closures, `with`, literals
that decide a type, expressions of whole arrays), and each is followed by an analysis of its own.
What a user writes as a policy goes through all of numba's.
"""

from __future__ import annotations

from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import (
    AnnotateTypes,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)

PASSES = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    GenericRewrites,
    ReconstructSSA,
    NopythonTypeInference,
    PreLowerStripPhis,
    IRLegalization,
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
)


class Compiler(CompilerBase):
    """From bytecode to machine code by PASSES."""

    def define_pipelines(self):
        """The one list of passes."""
        passes = PassManager("engine")
        for one in PASSES:
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]
