"""Networks that keep frames in variables, as networks over one window of frames.

Such a network takes a few frames at a time.  What a layer has seen of the past lies in a variable:
it is read, the new is put behind it, the end of both is assigned again, and a convolution without
padding runs over both.  Once the variables are full, each output equals that of the same layers
over a window that is as long as all of them look back: so that is what is read.
Axis 1, behind the batch, is time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from kilograd.frontend.tflite.schema import FileGraph, FileOperator, FileTensor
from kilograd.layers.unsupported import UnsupportedError
from kilograd.limits import MAP_ELEMENTS

LAST = "KILOGRAD_LAST"
"""An operator of ours: the last steps of its input, as many as its output has."""

_STATE = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"}
_WINDOWED = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_EACH = {"ADD", "MUL", "SUB", "RELU", "RELU6", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU"}


def has_state(graph: FileGraph) -> bool:
    """Tell whether a network keeps anything from one call to the next."""
    return any(op.kind in _STATE for op in graph.operators)


@dataclass(eq=False)
class _Stream:
    """What is known while a network is unrolled.

    `before`: for a tensor that begins with steps of the past, what comes in now.
    `needed`: steps of a tensor that what follows looks at.
    """

    graph: FileGraph
    before: dict[FileTensor, FileTensor] = field(default_factory=dict)
    needed: dict[FileTensor, int] = field(default_factory=dict)
    made: dict[FileTensor, FileTensor] = field(default_factory=dict)
    dropped: set[FileOperator] = field(default_factory=set)


def unrolled(graph: FileGraph) -> FileGraph:
    """Return a network without variables, the inputs of which are whole windows.

    Raises `UnsupportedError` where what it keeps is not the past of one axis.
    """
    stream = _Stream(graph)
    _find_past(stream)
    if len(graph.inputs) != 1:
        raise UnsupportedError(
            "keeps frames of several inputs: give it whole windows, without variables"
        )
    timed = _timed(stream)
    if not timed.issuperset(stream.before) or stream.before.keys() & set(graph.outputs):
        raise UnsupportedError("keeps what is no past of its input")
    for op in reversed(graph.operators):
        if op not in stream.dropped:
            for t, steps in _looks_at(stream, op, timed):
                stream.needed[t] = max(steps, stream.needed.get(t, 0))
    inputs = tuple(_longer(stream, t) for t in graph.inputs)
    operators = [
        x for op in graph.operators if op not in stream.dropped for x in _plain(stream, op)
    ]
    outputs = tuple(stream.made.get(t, t) for t in graph.outputs)
    return replace(graph, inputs=inputs, outputs=outputs, operators=tuple(operators))


# -- what is kept ----------------------------------------------------------------------------------


def _find_past(stream: _Stream) -> None:
    """Find each place where new steps are put behind those of a variable."""
    graph = stream.graph
    stream.dropped.update(op for op in graph.operators if op.kind in _STATE)
    variables = {_made(op): _variable(op) for op in graph.operators if op.kind == "VAR_HANDLE"}
    kept: dict[str, list[FileOperator]] = {}
    for op in graph.operators:
        if op.kind == "ASSIGN_VARIABLE" and len(op.inputs) == 2:
            kept.setdefault(variables.get(_first(op), ""), []).append(op)
    for read in graph.operators:
        if read.kind == "READ_VARIABLE":
            writes = kept.get(variables.get(_first(read), ""), [])
            if len(writes) != 1 or not read.outputs:
                raise UnsupportedError("keeps a variable that is not written once a call")
            whole = _joined(stream, read.outputs[0])
            _require_end(stream, writes[0].inputs[1], whole, read.outputs[0])


def _variable(op: FileOperator) -> str:
    return op.options.text(1) if op.options else ""


def _joined(stream: _Stream, past: FileTensor) -> FileTensor:
    """Return what is made of the past, or its last steps, and what comes in."""
    users = stream.graph.users
    after = users.get(past, [])
    if len(after) == 1 and after[0].kind == "STRIDED_SLICE":
        stream.dropped.add(after[0])
        past = _ending(after[0])
        after = users.get(past, [])
    new = after[0].inputs[-1] if len(after) == 1 and after[0].inputs else None
    if new is None or after[0].kind != "CONCATENATION" or after[0].inputs != (past, new):
        raise UnsupportedError("keeps a variable that is not the past of what comes in")
    if _axis(after[0]) != 1:
        raise UnsupportedError("keeps a variable along another axis than the first")
    stream.dropped.add(after[0])
    whole = _made(after[0])
    stream.before[whole] = new
    return whole


def _require_end(
    stream: _Stream, end: FileTensor | None, whole: FileTensor, past: FileTensor
) -> None:
    """Raise `UnsupportedError` where what a variable is given is not the end of `whole`."""
    cut = stream.graph.made.get(end) if end is not None and end is not whole else None
    if cut is not None:
        stream.dropped.add(cut)
        end = _ending(cut)
    if end is None or (end is not whole and (cut is None or _first(cut) is not whole)):
        raise UnsupportedError("keeps something else than the end of what came in")
    if end.shape != past.shape:
        raise UnsupportedError("keeps a variable of another length than it reads")


def _first(op: FileOperator) -> FileTensor:
    if not op.inputs or op.inputs[0] is None:
        raise UnsupportedError(f"has a {op.kind} of nothing")
    return op.inputs[0]


def _made(op: FileOperator) -> FileTensor:
    if not op.outputs:
        raise UnsupportedError(f"has a {op.kind} that makes nothing")
    return op.outputs[0]


def _axis(op: FileOperator) -> int:
    axis = op.option(0)
    return axis + len(_made(op).shape) if axis < 0 else axis


def _ending(op: FileOperator) -> FileTensor:
    """Return the output of a slice that takes the last steps and nothing else."""
    x, y = _first(op), _made(op)
    wrong = UnsupportedError("keeps something else than the end of what came in")
    if op.kind != "STRIDED_SLICE" or len(op.inputs) != 4 or len(x.shape) != len(y.shape):
        raise wrong
    begin, end, step = (t.values if t is not None else None for t in op.inputs[1:])
    if begin is None or end is None or step is None or begin.shape != (len(x.shape),):
        raise wrong
    if end.shape != begin.shape or (step != 1).any() or any(op.option(i) for i in (2, 3, 4)):
        raise wrong
    for axis, (length, left) in enumerate(zip(x.shape, y.shape, strict=True)):
        first = None if op.option(0) >> axis & 1 else int(begin[axis])
        last = None if op.option(1) >> axis & 1 else int(end[axis])
        ended = range(length)[first:last] == range(max(length - left, 0), length)
        if not ended or left > length or (axis != 1 and left != length):
            raise wrong
    return y


# -- how far is looked back ------------------------------------------------------------------------


def _timed(stream: _Stream) -> set[FileTensor]:
    """Return the tensors whose axis 1 is time."""
    timed = {t for t in stream.graph.inputs if len(t.shape) > 1}
    for op in stream.graph.operators:
        data = [t for t in op.inputs if t is not None and t.values is None]
        for y in op.outputs:
            if (y in stream.before and stream.before[y] in timed) or (
                op not in stream.dropped and any(t in timed for t in data) and _keeps_time(op)
            ):
                timed.add(y)
    return timed


def _keeps_time(op: FileOperator) -> bool:
    x, y = _first(op), _made(op)
    if len(x.shape) < 3 or len(y.shape) < 3:
        return False
    if op.kind in {"RESHAPE", "EXPAND_DIMS", "SQUEEZE"}:
        return x.shape[:2] == y.shape[:2]
    if op.kind == "CONCATENATION":
        return _axis(op) > 1
    return op.kind in _WINDOWED | _EACH


def _looks_at(
    stream: _Stream, op: FileOperator, timed: set[FileTensor]
) -> Iterator[tuple[FileTensor, int]]:
    """Yield what an operator reads, and how many steps of it."""
    data = [t for t in op.inputs if t in timed and t is not None]
    y = op.outputs[0] if op.outputs else None
    if y is None or y not in timed:
        yield from ((x, n) for t in data for x, n in _own(stream, t, t.shape[1]))
        return
    steps = max(stream.needed.get(y, 0), y.shape[1])
    stream.needed[y] = steps
    for t in data:
        _require_pace(op, stream.before.get(t, t))
        yield from _own(stream, t, _reach(op, steps, t))


def _own(stream: _Stream, t: FileTensor, steps: int) -> Iterator[tuple[FileTensor, int]]:
    """Yield a tensor; and of one that begins with the past, also what comes in."""
    yield t, steps
    if t in stream.before:
        yield from _own(stream, stream.before[t], steps)


def _require_pace(op: FileOperator, new: FileTensor) -> None:
    """Raise `UnsupportedError` where a call does not go on by what it makes, times the stride."""
    stride = op.option(2) if op.kind in _WINDOWED else 1
    if new.shape[1] != op.outputs[0].shape[1] * stride:
        raise UnsupportedError(
            "does not go on by what comes in: its windows are at no fixed distance"
        )


def _reach(op: FileOperator, steps: int, x: FileTensor) -> int:
    """Return how many steps of its input an operator needs for `steps` of its output."""
    if op.kind not in _WINDOWED:
        return steps
    weight = op.inputs[1] if len(op.inputs) > 1 else None
    if weight is None or len(weight.shape) != 4:
        raise UnsupportedError("has a filter without four axes")
    size, stride = weight.shape[1], op.option(2)
    if stride < 1 or (op.option(0, "b") != 1 and size > 1):
        raise UnsupportedError(
            "pads what comes in with zeros at every call: convert it without padding"
        )
    new = op.outputs[0].shape[1]
    if x.shape[1] - size != (new - 1) * stride:
        raise UnsupportedError("looks back by another length than its filter")
    return (steps - 1) * stride + size


# -- the network over a window ---------------------------------------------------------------------


def _longer(stream: _Stream, t: FileTensor) -> FileTensor:
    """Return a tensor with as many steps as are looked at."""
    if t not in stream.made:
        steps = stream.needed.get(t)
        stream.made[t] = replace(t, shape=t.shape if steps is None else _stretched(t, steps))
    return stream.made[t]


def _stretched(t: FileTensor, steps: int) -> tuple[int, ...]:
    """Return the shape of a tensor with so many steps."""
    if steps * t.size > MAP_ELEMENTS:
        raise UnsupportedError(f"looks back {steps:,} steps of {t}, more than is taken")
    return (t.shape[0], steps, *t.shape[2:])


def _plain(stream: _Stream, op: FileOperator) -> Iterator[FileOperator]:
    """Yield an operator on longer tensors, behind what takes the end of one that is too long."""
    inputs = []
    for t in op.inputs:
        source = t
        while source in stream.before:
            source = stream.before[source]
        if t is None or source is None or (t not in stream.needed and source is t):
            inputs.append(None if t is None else stream.made.get(t, t))
            continue
        whole = _longer(stream, source)
        steps = _wanted(stream, op, t)
        if whole.shape[1] == steps:
            inputs.append(whole)
            continue
        cut = replace(whole, name=f"{t.name}/last", shape=_stretched(whole, steps))
        yield FileOperator(LAST, (whole,), (cut,))
        inputs.append(cut)
    yield replace(op, inputs=tuple(inputs), outputs=tuple(_longer(stream, t) for t in op.outputs))


def _wanted(stream: _Stream, op: FileOperator, t: FileTensor) -> int:
    y = op.outputs[0]
    return _reach(op, stream.needed[y], t) if y in stream.needed else t.shape[1]
