"""`State` as the compiler sees it: one pointer to a table of array addresses and shapes, and of the
addresses of policies and of the parts of the engine that are compiled apart.

Handing all arrays from function to function by value makes compiled code large and slow to compile.
Here `state.live` is a load from the table instead, and `state.route(...)` a call of what the table
names; the source of the engine does not change, and plain Python sees the named tuple itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_global,
    signature,
)
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_builtin,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)

from forerun.sim.core import parts
from forerun.sim.core.signatures import KINDS, numba_signatures
from forerun.sim.core.state import LAYOUT, State, record

#: attributes of records are slow to read but through their class
_dtype, _shape, _flags, _ctypes = (
    getattr(np.ndarray, name).__get__ for name in ("dtype", "shape", "flags", "ctypes")
)
WORDS = 4  # of the table for each array: address and up to three lengths
_REST = [(0,) * (WORDS - 1 - ndim) for ndim in range(WORDS)]
POLICIES = WORDS * len(LAYOUT)  # from this word on: a policy of each kind
SIGNATURES = numba_signatures()


class StateType(types.Type):
    """The type of `state` in compiled code."""

    def __init__(self) -> None:
        super().__init__(name="ForerunState")


STATE = StateType()
I8 = types.int64
#: the functions of `parts.py`, in the order of the table's last words
PARTS = {"form": I8(STATE, I8, I8)}


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
        if attr in KINDS:
            return types.BoundFunction(_method(attr), typ)
        return array_type(attr) if attr in LAYOUT else None


@cache
def _method(kind: str) -> type[AbstractTemplate]:
    """The policy of a kind as a method of `state`."""

    class Method(AbstractTemplate):
        key = f"ForerunState.{kind}"

        def generic(self, args, kws):
            of = SIGNATURES[kind]
            return signature(of.return_type, *of.args, recvr=STATE)

    @lower_builtin(Method.key, StateType, types.VarArg(types.Any))
    def call(context, builder, sig, args):
        address = _word(builder, args[0], POLICIES + KINDS.index(kind))
        return _called(context, builder, address, SIGNATURES[kind], args[1:])

    return Method


def _by_address(name: str) -> None:
    """A function of `parts.py` as compiled code sees it."""
    function, of = getattr(parts, name), PARTS[name]
    n = POLICIES + len(KINDS) + list(PARTS).index(name)

    @infer_global(function)
    class Part(AbstractTemplate):
        key = function

        def generic(self, args, kws):
            return of

    @lower_builtin(function, *of.args)
    def call(context, builder, sig, args):
        return _called(context, builder, _word(builder, args[0], n), of, args)


def _called(context: Any, builder: Any, address: Any, of: Any, args: Any) -> Any:
    """What is at an address, called by the compiler's own convention."""
    convention = context.call_conv
    pointer = convention.get_function_type(of.return_type, of.args).as_pointer()
    function = builder.inttoptr(address, pointer)
    status, result = convention.call_function(builder, function, of.return_type, of.args, args)
    with cgutils.if_unlikely(builder, status.is_error):
        convention.return_status_propagate(builder, status)
    return result


for part in PARTS:
    _by_address(part)


def _word(builder, state, n):
    """Word n of the table."""
    table = builder.inttoptr(state, ir.IntType(64).as_pointer())
    return builder.load(builder.gep(table, [ir.Constant(ir.IntType(64), n)]))


@lower_getattr_generic(StateType)
def _load(context, builder, typ, value, attr):
    array_t = array_type(attr)
    first = WORDS * list(LAYOUT).index(attr)

    size = context.get_abi_sizeof(context.get_data_type(array_t.dtype))
    model = context.data_model_manager[array_t]
    data = model.get_member_fe_type("data")
    shape = [_word(builder, value, first + 1 + d) for d in range(array_t.ndim)]
    strides = [context.get_constant(types.intp, size)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    fields = {
        "nitems": reduce(builder.mul, shape),
        "itemsize": context.get_constant(types.intp, size),
        "data": builder.inttoptr(_word(builder, value, first), context.get_data_type(data)),
        "shape": cgutils.pack_array(builder, shape),
        "strides": cgutils.pack_array(builder, strides),
    }
    array = ir.Constant(model.get_value_type(), None)  # nobody's: no parent, nothing to count
    for field, is_ in fields.items():
        array = builder.insert_value(array, is_, model.get_field_position(field))
    return array


@cache
def address(function: Any, of: Any) -> int:
    """Where the code of a function compiled for a signature begins."""
    compiled = function.get_compile_result(of)
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


class Pointer:
    """What compiled code is handed for a State: the address of its table, kept with the State.

    apart : the addresses of PARTS
    """

    def __init__(self, state: State, apart: Sequence[int]) -> None:
        known = state.__dict__
        if "table" not in known:
            table = _table(state, apart)
            known["table"] = table, table.ctypes.data
        self.state = state
        self.address = known["table"][1]


def _table(state: State, apart: Sequence[int]) -> np.ndarray:
    """Addresses and lengths of arrays, WORDS each, addresses of policies and of parts: int64."""
    words: list[int] = []
    for name, (dtype, ndim) in LAYOUT.items():
        array = getattr(state, name)
        found, shape = _dtype(array), _shape(array)
        assert found is dtype or found is record(dtype) or found == dtype, name
        assert len(shape) == ndim, name
        assert _flags(array).c_contiguous, name
        words += (_ctypes(array).data, *shape, *_REST[ndim])
    words += (address(getattr(state, kind), SIGNATURES[kind]) for kind in KINDS)
    words += apart
    return np.array(words, dtype=np.int64)


@typeof_impl.register(Pointer)
def _typeof(value, context):
    return STATE


@unbox(StateType)
def _unbox(typ, pointer, c):
    attribute = c.pyapi.object_getattr_string(pointer, "address")
    address = c.pyapi.long_as_longlong(attribute)
    c.pyapi.decref(attribute)
    return NativeValue(address)
