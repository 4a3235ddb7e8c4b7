"""`State` as the compiler sees it: one pointer to a table of array addresses and shapes.

Handing thirty arrays from function to function by value makes compiled code large and slow to
compile.  Here `state.live` is a load from the table instead; the source of the engine does not
change, and plain Python sees the named tuple itself.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array

from forerun.sim.core.state import LAYOUT, State

WORDS = 4  # of the table for each array: address and up to three lengths


class StateType(types.Type):
    """The type of `state` in compiled code."""

    def __init__(self) -> None:
        super().__init__(name="ForerunState")


STATE = StateType()


@register_model(StateType)
class _Pointer(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.IntType(64))


@cache
def array_type(name: str) -> types.Array:
    """The numba type of a field of State."""
    dtype, ndim = LAYOUT[name]
    return types.Array(from_dtype(np.dtype(dtype)), ndim, "C")


@infer_getattr
class _Fields(AttributeTemplate):
    key = StateType

    def generic_resolve(self, typ, attr):  # type: ignore[override]
        return array_type(attr) if attr in LAYOUT else None


@lower_getattr_generic(StateType)
def _load(context, builder, typ, value, attr):
    array_t = array_type(attr)
    table = builder.inttoptr(value, ir.IntType(64).as_pointer())
    first = WORDS * list(LAYOUT).index(attr)

    def word(n):
        at = builder.gep(table, [ir.Constant(ir.IntType(64), first + n)])
        return builder.load(at)

    array = context.make_array(array_t)(context, builder)
    size = context.get_abi_sizeof(context.get_data_type(array_t.dtype))
    shape = [word(1 + d) for d in range(array_t.ndim)]
    strides = [context.get_constant(types.intp, size)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(
        array,
        data=builder.inttoptr(word(0), array.data.type),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, strides),
        itemsize=context.get_constant(types.intp, size),
        meminfo=None,
    )
    return array._getvalue()


class Pointer:
    """What compiled code is handed for a State: the address of its table, kept alive here."""

    def __init__(self, state: State) -> None:
        self.table = np.zeros((len(LAYOUT), WORDS), dtype=np.int64)
        for row, (name, (dtype, ndim)) in zip(self.table, LAYOUT.items(), strict=True):
            array = getattr(state, name)
            assert (array.dtype, array.ndim) == (dtype, ndim), name
            assert array.flags.c_contiguous, name
            row[0] = array.ctypes.data
            row[1 : 1 + ndim] = array.shape
        self.address = self.table.ctypes.data
        self.state = state


@typeof_impl.register(Pointer)
def _typeof(value, context):
    return STATE


@unbox(StateType)
def _unbox(typ, pointer, c):
    attribute = c.pyapi.object_getattr_string(pointer, "address")
    address = c.pyapi.long_as_longlong(attribute)
    c.pyapi.decref(attribute)
    return NativeValue(address)
