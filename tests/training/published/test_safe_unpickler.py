"""Pickles as data: what is read, what is refused, and that no bytes cost more than they should."""

import pickle
import struct
import tracemalloc

import pytest

from tests.training.published.published_files import Call, Name, Persistent, dumps
from training.published.pickle_values import (
    MAX_DEPTH,
    MAX_INSTRUCTIONS,
    Budget,
    Global,
    Inert,
    UnreadablePickle,
    inert,
    printable,
)
from training.published.safe_unpickler import read_pickle

PLAIN = {
    "nothing": None,
    "truth": [True, False],
    "integers": [0, 1, -1, 255, 256, 65_536, -(2**31), 2**40, -(2**70)],
    "numbers": (0.5, -1e300, float("inf")),
    "texts": ["", "a", "ä€😀", "x" * 300],
    "nested": {"a": [{"b": (1, (2, 3), ())}], 3: "x", 1.5: [], None: {}, True: 0},
}


def read(data, allowed=None, **arguments):
    value, end = read_pickle(memoryview(data), allowed=allowed or {}, budget=Budget(nested=len(data)), **arguments)
    assert end == len(data)
    return value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data(protocol):
    assert read(pickle.dumps(PLAIN, protocol)) == PLAIN


def test_byte_strings_are_views_of_the_data():
    data = bytearray(pickle.dumps([b"abc", b"x" * 1000], 4))
    short, long = read(data)
    assert bytes(short) == b"abc" and bytes(long) == b"x" * 1000
    data[data.index(b"abc")] = ord("z")
    assert bytes(short) == b"zbc"


def test_sets_become_lists():
    data = pickle.dumps([{1, 2}, frozenset({3})], 4)
    assert read(data) == [[1, 2], [3]]


def test_what_occurs_twice_is_one_object():
    shared = ["x"]
    shared.append(shared)
    value = read(pickle.dumps([shared, shared], 4))
    assert value[0] is value[1] and value[0][1] is value[0]


def test_several_pickles_in_a_row():
    data = memoryview(pickle.dumps(1, 2) + pickle.dumps("x", 4))
    first, end = read_pickle(data, allowed={}, budget=Budget(nested=0))
    assert (first, read_pickle(data, allowed={}, budget=Budget(nested=0), start=end)) == (1, ("x", len(data)))


def test_objects_are_kept_as_data():
    class_state = {"a": 1, "b": Name("typing", "Any")}
    data = dumps([Call(Name("some.place", "Thing"), (1, "x"), class_state, new=new) for new in (False, True)])
    for thing in read(data, inert("some.place.Thing", "typing.*")):
        assert isinstance(thing, Inert)
        assert (thing.name, thing.arguments) == ("some.place.Thing", (1, "x"))
        assert thing.state["a"] == 1
        assert isinstance(thing.state["b"], Global) and thing.state["b"].name == "typing.Any"


def test_calls_go_to_the_table():
    data = dumps(Call(Name("builtins", "sum"), ((1, 2, 3),)))
    assert read(data, {"builtins.sum": lambda arguments: ("given", arguments)}) == ("given", ((1, 2, 3),))


def test_persistent_ids_go_to_the_caller():
    data = dumps({"a": Persistent(("storage", 5))})
    assert read(data, persistent=lambda identity: identity[1] + 1) == {"a": 6}
    with pytest.raises(UnreadablePickle, match="outside of itself"):
        read(data)


# ----------------------------------------------------------------------------------------------------------------------
# Refusals

P4 = b"\x80\x04"
LIST = inert("builtins.list")


def text(x):
    return pickle.BINUNICODE + struct.pack("<I", len(x)) + x.encode()


@pytest.mark.parametrize(
    "data, words",
    [
        (dumps(Call(Name("os", "system"), ("true",))), "asks for os.system"),
        (dumps(Call(Name("builtins", "eval"), ("1",))), "asks for builtins.eval"),
        (dumps(Call(Name("builtins", "exec"), ("1",), new=True)), "asks for builtins.exec"),
        (dumps(Call(Name("torch.hub", "load"), ("a", "b"))), "asks for torch.hub.load"),
        (dumps(Name("builtins", "getattr")), "asks for builtins.getattr"),  # even uncalled
        (b"cos\nsystem\n(X\x04\x00\x00\x00truetR.", "asks for os.system"),  # the oldest protocol
        (P4 + text("os") + text("system") + pickle.STACK_GLOBAL + b".", "asks for os.system"),
        (P4 + text("builtins") + text("list.append") + pickle.STACK_GLOBAL + b".", "asks for builtins.list.append"),
        (b"\x80\x02cevil\x1b[2Jmodule\nname\n.", r"asks for evil\?\[2Jmodule.name,"),  # no control characters
        (b"\x80\x02c" + b"a" * 300 + b"\nb\n.", "longer than any"),
        (P4 + b"]]" + pickle.STACK_GLOBAL + b".", "is not a name"),
        (P4 + text("a") + b")R.", "calls something that is not a global"),
        (b"\x80\x02cbuiltins\nlist\n]R.", "calls something that is not a global"),  # arguments that are no tuple
        (b"\x80\x02(S'true'\nios\nsystem\n.", "instruction STRING"),
        (b"\x80\x02(ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (P4 + b")}" + pickle.NEWOBJ_EX + b".", "instruction NEWOBJ_EX"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"\x80\x02\xff.", "unknown instruction 0xff"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x02}}b.", "gives a state to something"),
        (b"\x80\x02}K\x01a.", "not a list"),
        (b"\x80\x02]K\x01K\x02s.", "not a dictionary"),
        (b"\x80\x02}(K\x01u.", "not a dictionary"),  # a key without a value
        (dumps({("a",): 1}), "keys are neither"),
        (b"\x80\x02K\x01K\x02.", "damaged near byte"),  # two values
        (b"\x80\x02(K\x01.", "damaged near byte"),  # a mark is left
        (b"\x80\x02a.", "damaged near byte"),
        (b"\x80\x02t.", "damaged near byte"),
        (b"\x80\x02h\x05.", "damaged near byte"),  # nothing was kept as number 5
        (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "damaged near byte"),  # no UTF-8
    ],
)
def test_refused(data, words):
    with pytest.raises(UnreadablePickle, match=words) as caught:
        read(data, LIST)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed():
    data = dumps(PLAIN)
    for length in range(len(data)):
        with pytest.raises(UnreadablePickle):
            read(data[:length])
    with pytest.raises(UnreadablePickle, match="is cut off: it ends after 100 bytes"):
        read(data[:100])


# ----------------------------------------------------------------------------------------------------------------------
# Bombs: refused, or harmless; quickly, and without memory

MANY = 50_000


def laughs():
    """A list of ten lists of ten lists of …: a few bytes that a copy would make 10^30 entries of."""
    data = b"\x80\x02]q\x00K\x01a0"
    for level in range(30):
        data += b"]q" + bytes([level + 1]) + b"(" + (b"h" + bytes([level])) * 10 + b"e0"
    return data + b"h\x1e."


def nested_objects():
    obj = None
    for _ in range(MAX_DEPTH):
        obj = Call(Name("builtins", "list"), (obj,))
    return dumps(obj)


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\x80\x02" + b"]" * MANY + b"a" * (MANY - 1) + b".", f"more than {MAX_DEPTH} deep"),
        (b"\x80\x02)" + b"\x85" * MANY + b".", f"more than {MAX_DEPTH} deep"),
        (b"\x80\x02" + b"(" * MANY + b"t" * MANY + b".", f"more than {MAX_DEPTH} deep"),
        (b"\x80\x02)" + b"\x85" * MANY + b"0N.", None),  # nested as deeply, but thrown away
        (b"\x80\x02cbuiltins\nlist\nq\x00" + b"q\x010h\x00h\x01\x85R" * MANY + b"0N.", None),  # objects likewise
        (nested_objects(), f"more than {MAX_DEPTH} deep"),
        (laughs(), None),
        (b"\x80\x02" + b"N0" * (MAX_INSTRUCTIONS // 2 + 1) + b"N.", "far more work"),
    ],
)
def test_bombs_of_depth_and_length(data, words):
    if words is None:
        read(data, LIST)
    else:
        with pytest.raises(UnreadablePickle, match=words):
            read(data, LIST)


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\x80\x04X\xff\xff\xff\xffabc.", "a string of 4294967295 bytes"),
        (b"\x80\x04X\xff\xff\xff\x00abc.", "cut off"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "a string of 18446744073709551615 bytes"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.", "cut off"),
        (b"\x80\x04B\xff\xff\xff\x7fabc.", "cut off"),
        (b"\x80\x04\x8b\xff\xff\xff\x7f1.", "an integer of 2147483647 bytes"),
        (b"\x80\x04\x8a\xff" + b"\x01" * 255 + b".", "an integer of 255 bytes"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", None),  # kept as number 4,294,967,295
        (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", None),  # a frame of 16 EiB
    ],
)
def test_claims_allocate_nothing(data, words):
    tracemalloc.start()
    try:
        if words is None:
            read(data, LIST)
        else:
            with pytest.raises(UnreadablePickle, match=words):
                read(data, LIST)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_budget_is_shared_by_everything_nested():
    budget = Budget(nested=10, instructions=8)
    data = memoryview(dumps([1, 2]))  # six instructions
    read_pickle(data, allowed={}, budget=budget)
    with pytest.raises(UnreadablePickle, match="far more work"):
        read_pickle(data, allowed={}, budget=budget)
    budget.instructions = 100
    budget.spend(nested=6)
    with pytest.raises(UnreadablePickle, match="far more work"):
        budget.spend(nested=6)


def test_text_for_messages():
    assert printable("a\nb\x1b[1mc\u202e") == "a?b?[1mc?"
    assert printable("x" * 101) == "x" * 100 + "…"
