"""Read a compiled program's HLO text: loops, matrix products, exchanges between devices.

XLA's own cost analysis counts the body of a `while` once, however often it runs. Here every instruction counts as often as
its loops run: by `known_trip_count`, which CPU and GPU print, or, on TPU, which does not print it, by the loop's condition.
Shapes are those of one device. Sizes are of the elements, without the padding of a layout's tiles.
"""

import functools
import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
CALLED = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
# Products of [L, d] and [L, L] in each kernel of splash attention: scores and values; in the gradients the scores again too.
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
SAME_VALUE = ("copy", "bitcast", "convert", "copy-start", "copy-done")


class Instruction(NamedTuple):
    """One line: `name = shape opcode(arguments), rest`."""

    name: str
    shape: str
    opcode: str
    arguments: str
    rest: str
    root: bool

    @property
    def operands(self):
        """The names among the arguments; text from before compilation has no % to mark them."""
        return re.findall(r"%([\w.\-]+)" if "%" in self.arguments else r"[^\s,(){}]+", self.arguments)

    @property
    def called(self):
        """The computations that the instruction calls, by role: body, condition, calls, to_apply."""
        return dict(CALLED.findall(self.rest))

    @property
    def index(self):
        """Which element a get-tuple-element takes; None for all others."""
        match = self.opcode == "get-tuple-element" and re.search(r"index=(\d+)", self.rest)
        return int(match[1]) if match else None


class Run(NamedTuple):
    """An executed instruction: its computation, the computation around all fusions, and how often it runs (None: unknown)."""

    instruction: Instruction
    computation: str
    holder: str
    times: int | None


class Collective(NamedTuple):
    """An exchange between devices.

    Attributes:
      kind: one of KINDS.
      shape: one device's part of the result, as `bf16[8,128]`.
      bytes: bytes of the whole array on one device: the result of all-gather, the input of the others.
      times: how often it runs; None inside a loop of unknown length.
      group: how many devices exchange.
    """

    kind: str
    shape: str
    bytes: int
    times: int | None
    group: int

    @property
    def wire(self):
        """Bytes that a device sends in one run of a ring algorithm; all-reduce goes round the ring twice."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        return self.bytes * (2 if self.kind == "all-reduce" else 1) * (self.group - 1) / self.group


def arrays(shape):
    """(dtype, dimensions, layout) of every array of a shape, which may be a tuple's."""
    return [
        (dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d), layout) for dtype, dims, layout in ARRAY.findall(shape)
    ]


def size(shape_arrays):
    """Bytes of arrays, as `arrays` gives them."""
    return sum(math.prod(dims) * _bits(dtype) // 8 for dtype, dims, _ in shape_arrays)


def _bits(dtype):
    number = re.search(r"\d+", dtype)
    return 8 if dtype == "pred" else int(number[0]) if number else 0


def _balanced(text):
    """Length of the bracketed part that `text` begins with."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced brackets in HLO: {text[:80]}")


def _instruction(line):
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
    if not match:
        return None
    root, name, text = match.groups()
    end = _balanced(text) if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, text = text.split("(", 1)[0], text[text.index("(") :]
    end = _balanced(text)
    return Instruction(name, shape, opcode, text[1 : end - 1], text[end:], bool(root))


class Module:
    """A parsed module: `computations`, name -> {name: Instruction}, and the name of the `entry` one."""

    def __init__(self, text):
        self.computations, self.entry, current = {}, None, None
        for line in text.splitlines():
            if head := re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$", line):
                current = self.computations[head[2]] = {}
                self.entry = head[2] if head[1] else self.entry
            elif current is not None and (instruction := _instruction(line)):
                current[instruction.name] = instruction
        if self.entry is None:
            raise ValueError("this text is no HLO module: it has no ENTRY computation")

    def root(self, computation):
        """The root instruction, which returns a computation's value."""
        return next(i for i in self.computations[computation].values() if i.root)

    def parameter(self, computation, number):
        """Name of a computation's parameter `number`."""
        instructions = self.computations[computation].values()
        return next(i.name for i in instructions if i.opcode == "parameter" and i.arguments == str(number))

    def runs(self):
        """Every executed instruction, as a `Run`; all branches of a conditional."""
        return self._within(self.entry, self.entry, 1)

    def _within(self, computation, holder, times):
        for instruction in self.computations[computation].values():
            yield Run(instruction, computation, holder, times)
            if instruction.opcode == "while":
                trips, body = self.trips(instruction, computation), instruction.called["body"]
                yield from self._within(body, body, None if times is None or trips is None else times * trips)
            elif instruction.opcode == "fusion":
                yield from self._within(instruction.called["calls"], holder, times)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                branches = re.findall(r"[\w.\-]+", "".join(BRANCHES.findall(instruction.rest))) or instruction.called.values()
                for branch in branches:
                    yield from self._within(branch, branch, times)

    def trips(self, loop, computation):
        """How often the body of a `while` runs; None if the text does not state it."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        outer, condition = self.computations[computation], self.computations[loop.called["condition"]]
        test, start = self.root(loop.called["condition"]), outer.get(loop.operands[0])
        if test.opcode != "compare" or "direction=LT" not in test.rest or start is None or start.opcode != "tuple":
            return None
        counter, bound = (condition[name] for name in test.operands)
        if counter.index is None:
            return None
        carried_value = lambda element: self._constant(start.operands[element.index], outer)  # values that no iteration changes
        first = carried_value(counter)
        last = self._constant(bound.name, condition) if bound.index is None else carried_value(bound)
        step = self._step(loop.called["body"], counter.index, carried_value)
        return None if None in (first, last, step) or step < 1 else max(-(-(last - first) // step), 0)

    def _step(self, body, index, carried_value):
        """The step that a loop's body adds to element `index` of its tuple; None if it does anything else to it."""
        instructions, root = self.computations[body], self.root(body)
        new_value = self._origin(root.operands[index], instructions) if root.opcode == "tuple" else root
        if new_value.opcode != "add":
            return None
        terms = [self._origin(name, instructions) for name in new_value.operands]
        others = [term for term in terms if term.index != index]
        if len(others) != 1:
            return None
        return self._constant(others[0].name, instructions) if others[0].index is None else carried_value(others[0])

    def _origin(self, name, instructions):
        instruction = instructions[name]
        while instruction.opcode in SAME_VALUE:
            instruction = instructions[instruction.operands[0]]
        return instruction

    def _constant(self, name, instructions):
        origin = self._origin(name, instructions)
        return int(origin.arguments) if origin.opcode == "constant" and re.fullmatch(r"-?\d+", origin.arguments) else None

    def flops(self, run):
        """FLOPs of one run of a `dot`, a `convolution` (a TPU's matrix product) or an attention kernel, 2 a multiply-add; else 0."""
        instruction = run.instruction
        if kernel := re.match(r"splash_mha_(fwd|dq|dkv)", instruction.name):
            instructions = self.computations[run.computation]
            # Operands of [B, H, L, d] follow two arrays that mark the masked blocks; no blocks are masked here.
            queries, keys = (arrays(instructions[name].shape)[0][1] for name in instruction.operands[2:4])
            return 2.0 * PRODUCTS[kernel[1]] * math.prod(queries) * keys[-2]
        if instruction.opcode not in ("dot", "convolution"):
            return 0.0
        instructions, ((_, out, _),) = self.computations[run.computation], arrays(instruction.shape)
        left, right = (arrays(instructions[name].shape)[0][1] for name in instruction.operands)
        if instruction.opcode == "convolution":
            return 2.0 * _convolved(out, left, right, instruction.rest)
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)[1]
        return 2.0 * math.prod(out) * math.prod(left[int(d)] for d in summed.split(",") if d)


def _convolved(out, left, right, rest):
    """Multiply-adds of a convolution, without those on padding and on holes."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    sizes = [dict(zip(names, dims)) for names, dims in zip(labels.groups(), (left, right, out))]
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", rest) or [""])[0]))
    total = sizes[0]["b"] * sizes[1]["i"] * sizes[2]["f"]
    for axis, name in enumerate(sorted(set(labels[1]) - {"b", "f"})):
        part = lambda key, default: window[key].split("x")[axis] if key in window else default
        low_padding = int(part("pad", "0_0").split("_")[0])
        strides = (int(part(key, "1")) for key in ("stride", "lhs_dilate", "rhs_dilate"))
        total *= _valid(sizes[2][name], sizes[1][name], sizes[0][name], low_padding, *strides)
    return total // int((re.search(r"batch_group_count=(\d+)", rest) or [0, 1])[1])


@functools.cache
def _valid(out, window, input_size, low_padding, stride, input_dilation, window_dilation):
    """Number of (output, window) pairs of one dimension that read an element of the input."""
    positions = (o * stride + w * window_dilation - low_padding for o in range(out) for w in range(window))
    return sum(0 <= position <= (input_size - 1) * input_dilation and position % input_dilation == 0 for position in positions)


def collectives(text):
    """Every exchange of a compiled program, a list of `Collective` (kind, shape, bytes, times, group).

    An exchange that a TPU overlaps with other work appears, under one channel, in each fusion that runs at the same time, even
    inside loops: it counts once, as often as the fusion that starts it runs.
    """
    module, seen, exchanges = Module(text), set(), []
    for run in module.runs():
        name = run.instruction.opcode.removesuffix("-start")
        if name not in KINDS:
            continue
        channel = re.search(r"channel_id=(\d+)", run.instruction.rest)
        key = channel[1] if channel and run.computation != run.holder else (run.holder, run.instruction.name)
        if key not in seen:
            seen.add(key)
            exchanges.append(_collective(module, run, name))
    return exchanges


def _collective(module, run, kind):
    instruction, instructions = run.instruction, module.computations[run.computation]
    operands = [array for name in instruction.operands for array in arrays(instructions[name].shape)]
    results = arrays(instruction.shape)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":  # its shape is (operands, results, the device's own)
        results = results[len(operands) : 2 * len(operands)]
    total = size(results if kind == "all-gather" else operands)
    shape = ", ".join(f"{dtype}[{','.join(map(str, dims))}]" for dtype, dims, _ in results)
    return Collective(kind, shape, total, run.times, _group(instruction.rest))


def _group(rest):
    """Devices in a group, from `{{0,1},{2,3}}`, from `[2,4]<=[8]`, or from a mesh's axes."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(iota[2])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    if pairs := re.search(r"source_target_pairs=\{\{([\d,{}]*)\}\}", rest):
        return len(set(re.findall(r"\d+", pairs[1])))
    return 1
