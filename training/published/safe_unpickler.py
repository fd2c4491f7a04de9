"""Safe unpickler: an interpreter of pickle instructions that imports and executes nothing.

A pickle is a program for a stack machine, and `pickle.load` runs it with full access to Python. The machine here has
the instructions that build numbers, strings and containers. A global that a file names is looked up in the caller's
table, never imported; a call passes its arguments to the table's function for that name, and nothing else can be
called. The state of an object is stored, never applied.

The work is bounded for any bytes: by `Budget`, by the length of the data (claimed lengths are compared with it before
anything is allocated), and by the depth of the result. Nothing recurses.

The instructions are those of protocols 2 to 5 as Python writes them (Lib/pickletools.py describes each).
"""

import pickle  # for the names of the instructions: nothing is ever loaded with it
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from training.published.pickle_values import Budget, Global, Inert, UnreadablePickle, check_depth, printable

__all__ = ["read_pickle"]

MAX_STRING = 1 << 24  # bytes of a string; checkpoints hold source files
MAX_INTEGER = 32  # bytes
MAX_NAME = 200  # characters of a global's name

Allowed = Mapping[str, Callable[[tuple], Any]]


def read_pickle(
    data: memoryview,
    *,
    allowed: Allowed,
    budget: Budget,
    start: int = 0,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """The value of the pickle that begins at `start`, and the position of its end.

    Args:
        data: Bytes; byte strings in the result are views of them.
        allowed: Name of a global → function of the tuple of arguments that replaces calling it. Names ending in `.*`
            allow every name with that prefix.
        persistent: Returns the object of a persistent id; None to refuse them.

    Raises:
        UnreadablePickle: The data are damaged, or hold what is not allowed.
    """
    machine = _StackMachine(data, start, allowed, budget, persistent)
    try:
        value = machine.run()
    except (IndexError, KeyError, UnicodeDecodeError, struct.error) as error:
        raise UnreadablePickle(f"is damaged near byte {machine.position}; download it again.") from error
    check_depth(value)
    return value, machine.position


# ----------------------------------------------------------------------------------------------------------------------
# The stack machine

_INSTRUCTIONS: dict[int, Callable[["_StackMachine"], None]] = {}


def _instruction(*codes: bytes):
    def register(function):
        for code in codes:
            _INSTRUCTIONS[code[0]] = function
        return function

    return register


class _StackMachine:
    """Interpreter of one pickle."""

    def __init__(self, data, start, allowed, budget, persistent):
        self.data, self.position, self.budget = data, start, budget
        self.allowed, self.persistent = allowed, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            self.budget.spend()
            code = self.take(1)[0]
            if code == pickle.STOP[0]:
                if len(self.stack) != 1 or self.below:
                    raise IndexError
                return self.stack.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                known = pickletools.code2op.get(chr(code))
                what = f"the pickle instruction {known.name}" if known else f"the unknown instruction {code:#04x}"
                raise UnreadablePickle(f"holds {what}, which no checkpoint needs (near byte {self.position - 1}).")
            instruction(self)

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise UnreadablePickle(f"is cut off: it ends after {len(self.data)} bytes; copy or download it again.")
        view = self.data[self.position : end]
        self.position = end
        return view

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def string(self, length: int) -> str:
        if length > MAX_STRING:
            raise UnreadablePickle(f"holds a string of {length} bytes; no checkpoint does.")
        return str(self.take(length), "utf-8")

    def line(self) -> str:
        line, end, _ = bytes(self.data[self.position : self.position + MAX_NAME + 1]).partition(b"\n")
        if not end:
            self.take(MAX_NAME + 1)  # cut off, or:
            raise UnreadablePickle("names a global that is longer than any; it is damaged or not a checkpoint.")
        self.position += len(line) + 1
        return line.decode("utf-8")

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def find(self, module: str, name: str) -> Global:
        full = f"{module}.{name}"
        apply = self.allowed.get(full)
        if apply is None:
            prefix = full
            while apply is None and "." in prefix:
                prefix = prefix.rpartition(".")[0]
                apply = self.allowed.get(f"{prefix}.*")
        if apply is None:
            raise UnreadablePickle(
                f"is a Python pickle that asks for {printable(full)}, which no published checkpoint needs: it may be "
                "malicious. It was refused; nothing in it was run."
            )
        return Global(full, apply)

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise UnreadablePickle(f"calls something that is not a global (near byte {self.position}); it is refused.")
        return function.apply(arguments)


# Numbers, strings, bytes


@_instruction(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE)
def _constant(m: _StackMachine) -> None:
    code = m.data[m.position - 1]
    m.stack.append(None if code == pickle.NONE[0] else code == pickle.NEWTRUE[0])


def _register_reader(code: bytes, read: Callable[[_StackMachine], Any]) -> None:
    _instruction(code)(lambda m: m.stack.append(read(m)))


def _integer(m: _StackMachine, length: int) -> int:
    if length > MAX_INTEGER:
        raise UnreadablePickle(f"holds an integer of {length} bytes; no checkpoint does.")
    return int.from_bytes(m.take(length), "little", signed=True)


_register_reader(pickle.BININT, lambda m: m.number("<i"))
_register_reader(pickle.BININT1, lambda m: m.number("<B"))
_register_reader(pickle.BININT2, lambda m: m.number("<H"))
_register_reader(pickle.BINFLOAT, lambda m: m.number(">d"))
_register_reader(pickle.LONG1, lambda m: _integer(m, m.number("<B")))
_register_reader(pickle.LONG4, lambda m: _integer(m, m.number("<I")))
_register_reader(pickle.BINUNICODE, lambda m: m.string(m.number("<I")))
_register_reader(pickle.SHORT_BINUNICODE, lambda m: m.string(m.number("<B")))
_register_reader(pickle.BINUNICODE8, lambda m: m.string(m.number("<Q")))
_register_reader(pickle.BINBYTES, lambda m: m.take(m.number("<I")))
_register_reader(pickle.SHORT_BINBYTES, lambda m: m.take(m.number("<B")))
_register_reader(pickle.BINBYTES8, lambda m: m.take(m.number("<Q")))

# Containers

_register_reader(pickle.EMPTY_TUPLE, lambda m: ())
_register_reader(pickle.EMPTY_LIST, lambda m: [])
_register_reader(pickle.EMPTY_DICT, lambda m: {})
_register_reader(pickle.EMPTY_SET, lambda m: [])  # sets are kept as lists, nothing is hashed
_register_reader(pickle.TUPLE1, lambda m: (m.stack.pop(),))
_register_reader(pickle.TUPLE2, lambda m: (m.stack.pop(), m.stack.pop())[::-1])
_register_reader(pickle.TUPLE3, lambda m: (m.stack.pop(), m.stack.pop(), m.stack.pop())[::-1])


@_instruction(pickle.MARK)
def _mark(m: _StackMachine) -> None:
    m.below.append(m.stack)
    m.stack = []


@_instruction(pickle.TUPLE)
def _tuple(m: _StackMachine) -> None:
    items = m.pop_mark()
    m.stack.append(tuple(items))


@_instruction(pickle.FROZENSET)
def _frozenset(m: _StackMachine) -> None:
    items = m.pop_mark()
    m.stack.append(items)


def _extend(m: _StackMachine, items: list[Any]) -> None:
    if type(m.stack[-1]) is not list:
        raise UnreadablePickle(f"appends to something that is not a list (near byte {m.position}).")
    m.stack[-1].extend(items)


_instruction(pickle.APPEND)(lambda m: _extend(m, [m.stack.pop()]))
_instruction(pickle.APPENDS, pickle.ADDITEMS)(lambda m: _extend(m, m.pop_mark()))


def _update(m: _StackMachine, items: list[Any]) -> None:
    target = m.stack[-1]
    if type(target) is not dict or len(items) % 2:
        raise UnreadablePickle(f"sets entries of something that is not a dictionary (near byte {m.position}).")
    for key, value in zip(items[::2], items[1::2]):
        if type(key) not in (str, int, float, bool, type(None)):
            raise UnreadablePickle("holds a dictionary whose keys are neither strings nor numbers.")
        target[key] = value


@_instruction(pickle.SETITEM)
def _set_item(m: _StackMachine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _update(m, [key, value])


_instruction(pickle.SETITEMS)(lambda m: _update(m, m.pop_mark()))

# Objects


@_instruction(pickle.GLOBAL)
def _global(m: _StackMachine) -> None:
    m.stack.append(m.find(m.line(), m.line()))


@_instruction(pickle.STACK_GLOBAL)
def _stack_global(m: _StackMachine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str or len(name) + len(module) > 2 * MAX_NAME:
        raise UnreadablePickle("names a global with something that is not a name; it is damaged or not a checkpoint.")
    m.stack.append(m.find(module, name))


@_instruction(pickle.REDUCE, pickle.NEWOBJ)
def _call(m: _StackMachine) -> None:
    arguments, function = m.stack.pop(), m.stack.pop()
    m.stack.append(m.call(function, arguments))


@_instruction(pickle.BUILD)
def _build(m: _StackMachine) -> None:
    state = m.stack.pop()
    if not isinstance(m.stack[-1], Inert):
        raise UnreadablePickle(f"gives a state to something that has none (near byte {m.position}).")
    m.stack[-1].set_state(state)


@_instruction(pickle.BINPERSID)
def _persistent_id(m: _StackMachine) -> None:
    if m.persistent is None:
        raise UnreadablePickle("refers to data outside of itself; no published checkpoint does.")
    m.stack.append(m.persistent(m.stack.pop()))


# Stack, memo, framing

_instruction(pickle.POP)(lambda m: m.stack.pop() if m.stack else m.pop_mark())
_instruction(pickle.POP_MARK)(lambda m: m.pop_mark())
_instruction(pickle.DUP)(lambda m: m.stack.append(m.stack[-1]))
_register_reader(pickle.BINGET, lambda m: m.memo[m.number("<B")])
_register_reader(pickle.LONG_BINGET, lambda m: m.memo[m.number("<I")])
_instruction(pickle.BINPUT)(lambda m: m.memo.__setitem__(m.number("<B"), m.stack[-1]))
_instruction(pickle.LONG_BINPUT)(lambda m: m.memo.__setitem__(m.number("<I"), m.stack[-1]))
_instruction(pickle.MEMOIZE)(lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]))
_instruction(pickle.FRAME)(lambda m: m.number("<Q"))  # the size of a frame, a hint for stream readers


@_instruction(pickle.PROTO)
def _protocol(m: _StackMachine) -> None:
    protocol = m.number("<B")
    if protocol > 5:
        raise UnreadablePickle(f"says that it is a pickle of protocol {protocol}, which does not exist.")
