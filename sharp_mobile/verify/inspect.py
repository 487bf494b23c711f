"""Read a `.pte` back: what is stored, who uses it, what runs where, and whether it is sound.

The file's flatbuffers are parsed and its segments hashed in place; no tensor is loaded, and no exporter's word is
taken. Names of weights are the only thing that comes from a manifest, where there is one.

Of the checks, three have a story:

* XNNPACK's weight cache identifies packed weights by their codes and bias, **not** by their scales. Two linears with
  equal codes and different scales share one packed copy, and one of them silently answers wrongly. (ExecuTorch 1.5.1;
  seen: 25.718 where 6.430 is right.)
* The same cache frees all constants of a delegate once linears are packed, so a delegate that multiplies by a constant
  of its own dies in its first step (ExecuTorch 1.5.1; see `template`).
* Weights that two layers share are one object in Python, but what counts is that they are one blob in the file.
"""

import hashlib
import itertools
import json
import mmap
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from sharp_mobile.files.printable import printable
from sharp_mobile.pte.flatc import Table
from sharp_mobile.pte.read import Program, delegate_graphs, mapped, parse, places_of, segments_of
from sharp_mobile.verify.manifest import StoredTensor

# The largest file: so many times the bytes of its distinct tensors, and what the program around them takes, which is
# the same for all widths: 11 kB a delegate with custom_sdpa, 15 kB with portable attention, 3.4 kB more for a target.
LARGEST_OVERHEAD = 1.01
_PROGRAM_BYTES, _PROGRAM_BYTES_OF_DELEGATE = 24_000, 20_000

# Operators that multiply matrices. Attention is meant to run outside XNNPACK, as these; a linear is not.
_LINEAR_OPERATORS = ("aten::linear", "aten::addmm", "aten::mm", "quantized_decomposed::mixed_linear")
# XNNPACK's nodes that pack weights and biases.
_PACKING = ("XNNFullyConnected", "XNNConv2d", "XNNDepthwiseConv2d", "XNNConvTranspose2d")


class Inspection(BaseModel):
    """What a `.pte` holds.

    tensor_bytes: of all distinct tensors. saved_bytes: what the file would have more if nothing were shared.
    operators: calls of operators outside the delegates; xnnpack_nodes: nodes inside. problems: why it is not sound.
    warnings: what could not be checked.
    """

    file: str
    sha256: str
    file_bytes: int
    tensor_bytes: int
    saved_bytes: int
    tensors: tuple[StoredTensor, ...]
    delegates: int
    operators: dict[str, int]
    xnnpack_nodes: dict[str, int]
    metadata: dict[str, object]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> int:
        """Bytes of the tensors of a kind."""
        return sum(tensor.bytes for tensor in self.tensors if tensor.kind == kind)


class _Weight(BaseModel):
    """A constant of one XNNPACK delegate; `scales` identifies everything but the codes that decides its values."""

    key: str
    kind: str
    scales: str | None
    scale_key: str | None
    bias: str | None = None
    user: str


def inspect_pte(path: str | Path, names: dict[str, str] | None = None) -> Inspection:
    """Read and check a `.pte`.

    Args:
        path: the file.
        names: weight names → keys, as `lower_segments` gives them; without them users are numbered delegates.

    Raises:
        SharpError: the file is missing, cut short, or no ExecuTorch program.
    """
    path = Path(path)
    with mapped(path) as data:
        program, base = parse(path, data)
        segments = segments_of(path, program, base, data)
        graphs = delegate_graphs(path, program, data, segments)
        weights = [weight for number, graph in enumerate(graphs) for weight in _weights(number, graph)]
        blobs = places_of(program, segments)
        tensors = _with_constants(_stored(weights, blobs, names or {}), program, data, segments, blobs)
        problems = [
            *_missing_blobs(weights, blobs),
            *_damaged_or_twice(data, blobs),
            *_collisions(weights, names or {}),
            *_freed_while_in_use(graphs),
            *_undelegated(program),
        ]
        tensor_bytes = sum(tensor.bytes for tensor in tensors)
        program_bytes = _PROGRAM_BYTES + _PROGRAM_BYTES_OF_DELEGATE * len(graphs)
        if len(data) > LARGEST_OVERHEAD * tensor_bytes + program_bytes:
            problems.append(
                f"the file has {len(data):,} bytes; its distinct tensors have {tensor_bytes:,}, and at most "
                f"{LARGEST_OVERHEAD - 1:.0%} and a program of {program_bytes:,} bytes more are expected"
            )
        return Inspection(
            file=path.name,
            sha256=hashlib.sha256(data).hexdigest(),
            file_bytes=len(data),
            tensor_bytes=tensor_bytes,
            saved_bytes=sum(tensor.bytes * (len(tensor.users) - 1) for tensor in tensors if tensor.users),
            tensors=tuple(sorted(tensors, key=lambda tensor: -tensor.bytes)),
            delegates=len(graphs),
            operators=dict(_operators(program).most_common()),
            xnnpack_nodes=dict(Counter(node["xnode_union_type"] for g in graphs for node in g["xnodes"]).most_common()),
            metadata=_metadata(program),
            problems=tuple(problems),
        )


def describe(inspection: Inspection, largest: int) -> list[str]:
    """An inspection in lines to read, with its `largest` tensors."""
    kinds: Counter[str] = Counter()
    for tensor in inspection.tensors:
        kinds[tensor.kind] += tensor.bytes
    shared = [tensor for tensor in inspection.tensors if len(tensor.users) > 1]
    lines = [
        f"{inspection.file}: {inspection.file_bytes:,} bytes, SHA-256 {inspection.sha256}",
        f"{len(inspection.tensors)} distinct tensors, {inspection.tensor_bytes:,} bytes "
        f"(the file has {_more(inspection.file_bytes, inspection.tensor_bytes)} more): "
        + ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()),
        f"{len(shared)} tensors have several users: {sum(tensor.bytes for tensor in shared):,} bytes, "
        f"which saves {inspection.saved_bytes:,}",
        f"{inspection.delegates} XNNPACK delegates: "
        + ", ".join(f"{name.removeprefix('XNN')} {count}" for name, count in inspection.xnnpack_nodes.items()),
        "outside: " + ", ".join(f"{name} {count}" for name, count in inspection.operators.items()),
        "metadata: " + ", ".join(f"{name} {value}" for name, value in inspection.metadata.items()),
        "",
        f"{'bytes':>12}  {'kind':<12}  users",
    ]
    for tensor in inspection.tensors[:largest]:
        lines.append(f"{tensor.bytes:>12,}  {tensor.kind:<12}  {', '.join(tensor.users)}")
    lines += ["", *(f"warning: {warning}" for warning in inspection.warnings)]
    lines += [f"NOT SOUND: {problem}" for problem in inspection.problems]
    # Names are the file's own: a control sequence in one must not reach the terminal.
    return [printable(line) for line in lines]


def _more(file_bytes: int, tensor_bytes: int) -> str:
    return f"{file_bytes / tensor_bytes - 1:.2%}" if tensor_bytes else f"{file_bytes} bytes"


def _weights(number: int, graph: Table) -> list[_Weight]:
    """The constants of a delegate; a linear's bias is noted with its weight, since both identify the packed copy."""
    keys = [entry.get("named_key", "") for entry in graph["constant_data"]]
    weights: dict[int, _Weight] = {}
    for value in graph["xvalues"]:
        union = value["xvalue_union"]
        quantized = value["xvalue_union_type"] == "XNNQuantizedTensorValue"
        tensor = union["tensor_value"] if quantized else union
        if not tensor["constant_buffer_idx"]:
            continue
        scales = scale_key = None
        if quantized:
            parameters = dict(union["quant_params"])
            scale_key = keys[parameters.pop("scale_buffer_idx")]
            scales = json.dumps([scale_key, tensor["dims"], parameters], sort_keys=True)
        weights[tensor["id_out"]] = _Weight(
            key=keys[tensor["constant_buffer_idx"]],
            kind=_KINDS.get(tensor["datatype"], tensor["datatype"]),
            scales=scales,
            scale_key=scale_key,
            user=f"delegate {number + 1}, value {tensor['id_out']}",
        )
    for node in graph["xnodes"]:
        union = node["xnode_union"]
        if node["xnode_union_type"] == "XNNFullyConnected" and union["bias_id"] in weights:
            weights[union["filter_id"]].bias = weights[union["bias_id"]].key
    return list(weights.values())


_KINDS = {
    "xnn_datatype_qbint4": "int4 codes",
    "xnn_datatype_qcint4": "int4 codes",
    "xnn_datatype_qcint8": "int8 codes",
    "xnn_datatype_fp32": "float32",
}


def _stored(weights: list[_Weight], blobs: dict[str, tuple[int, int]], names: dict[str, str]) -> list[StoredTensor]:
    # Dictionaries without values: ordered sets.
    users: dict[str, dict[str, None]] = defaultdict(dict)
    kinds: dict[str, str] = {}
    for name, key in names.items():
        users[key][name] = None
    named = set(names.values())
    for weight in weights:
        kinds[weight.key] = weight.kind
        if weight.key not in named:
            users[weight.key][weight.user] = None
        if weight.scale_key is not None:
            kinds[weight.scale_key] = "scales"
            users[weight.scale_key] |= {f"{user.removesuffix('.codes')}.scales": None for user in users[weight.key]}
    return [
        StoredTensor(key=key, bytes=end - start, kind=kinds.get(key, "unused"), users=tuple(users[key]))
        for key, (start, end) in blobs.items()
    ]


def _constant_range(program: Program, segments: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where each constant of the outer model lies in the file: up to what comes next.

    The constants' segment may reach over others, to a weight that is a constant too (see `pte_file`).
    """
    constants = program.get("constant_segment", {})
    if not constants.get("offsets"):
        return []
    start, end = segments[constants["segment_index"]]
    offsets = [start + offset for offset in constants["offsets"]]
    borders = sorted({*offsets, *(first for first, _ in segments), end})
    after = dict(itertools.pairwise(borders))
    # Equal offsets: the earlier constant is empty.
    following = [*offsets[1:], None]
    return [(o, o if o == f else after.get(o, o)) for o, f in zip(offsets, following, strict=True)]


def _with_constants(
    stored: list[StoredTensor],
    program: Program,
    data: mmap.mmap,
    segments: list[tuple[int, int]],
    blobs: dict[str, tuple[int, int]],
) -> list[StoredTensor]:
    """The delegates' tensors and the outer model's constants; what is both is one tensor with the users of both."""
    keys = {start: key for key, (start, _) in blobs.items()}
    found = {tensor.key: tensor for tensor in stored}
    for start, constant in _constants(program, data, segments):
        key = keys.get(start)
        if key is None:
            found[f"{constant.key} at {start}"] = constant
        else:
            found[key] = found[key].model_copy(update={"users": (*found[key].users, *constant.users)})
    return list(found.values())


def _constants(
    program: Program, data: mmap.mmap, segments: list[tuple[int, int]]
) -> Iterator[tuple[int, StoredTensor]]:
    """The outer model's constants, each with its place in the file."""
    ranges = _constant_range(program, segments)
    shapes: dict[int, str] = {}
    for plan in program["execution_plan"]:
        for value in plan["values"]:
            if value["val_type"] == "Tensor" and "allocation_info" not in value["val"]:
                tensor = value["val"]
                shapes[tensor["data_buffer_idx"]] = f"{tensor.get('sizes', [])} {str(tensor['scalar_type']).lower()}"
    for index, (start, end) in enumerate(ranges):
        if end > start:
            users = (f"constant {index} {shapes[index]}",) if index in shapes else ()
            key = hashlib.sha256(data[start:end]).hexdigest()
            yield start, StoredTensor(key=key, bytes=end - start, kind="outer model", users=users)


def _missing_blobs(weights: list[_Weight], blobs: dict[str, tuple[int, int]]) -> list[str]:
    wanted = {weight.key for weight in weights} | {weight.scale_key for weight in weights if weight.scale_key}
    return [f"tensor {key[:16]}… is used but not in the file" for key in sorted(wanted - blobs.keys())]


def _damaged_or_twice(data: mmap.mmap, blobs: dict[str, tuple[int, int]]) -> list[str]:
    """Delegates' tensors that are not what their key says, or that are stored more than once.

    Constants of the outer model are not compared with them: an embedding of 4 bits that is tied to the LM head is in
    another layout than the LM head's.
    """
    problems = []
    places: dict[str, list[str]] = defaultdict(list)
    for key, (start, end) in blobs.items():
        content = hashlib.sha256(data[start:end]).hexdigest()
        places[content].append(key)
        if key.removeprefix("scale_") != content:
            problems.append(f"tensor {key[:22]}… is damaged: its content does not match its hash")
    return problems + [
        f"the same bytes are stored {len(keys)} times: {', '.join(keys)}" for keys in places.values() if len(keys) > 1
    ]


def _collisions(weights: list[_Weight], names: dict[str, str]) -> list[str]:
    """Weights with equal codes and bias but other scales (see the module)."""
    scales: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    users: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for weight in weights:
        if weight.scales is not None:
            packed = (weight.key, weight.bias)
            scales[packed].add(weight.scales)
            users[packed].append(weight.user)
    name_of = {key: name for name, key in names.items()}
    return [
        f"weights with equal codes and different scales, of which XNNPACK's weight cache would keep one: "
        f"{name_of.get(packed[0], packed[0][:16] + '…')} in {', '.join(users[packed])}"
        for packed, found in scales.items()
        if len(found) > 1
    ]


def _freed_while_in_use(graphs: list[Table]) -> list[str]:
    """Constants that no linear packs (see the module)."""
    read = []
    for number, graph in enumerate(graphs):
        packed: set[int] = set()
        for node in graph["xnodes"]:
            if node["xnode_union_type"] in _PACKING:
                packed |= {node["xnode_union"]["filter_id"], node["xnode_union"]["bias_id"]}
        for value in graph["xvalues"]:
            tensor = value["xvalue_union"].get("tensor_value", value["xvalue_union"])
            if tensor["constant_buffer_idx"] and tensor["id_out"] not in packed:
                read.append(f"one of shape {tensor['dims']} in delegate {number + 1}")
    if not read:
        return []
    return [
        f"delegates read constants of their own at every step ({len(read)}, the first {read[0]}); XNNPACK's weight "
        "cache, on on phones, frees them after loading, and the program crashes; export it again with this sharp-mobile"
    ]


def _operators(program: Program) -> Counter[str]:
    calls: Counter[str] = Counter()
    for plan in program["execution_plan"]:
        if plan["name"] != "forward":
            continue
        for chain in plan["chains"]:
            for instruction in chain["instructions"]:
                arguments = instruction["instr_args"]
                if instruction["instr_args_type"] == "KernelCall":
                    operator = plan["operators"][arguments["op_index"]]
                    calls[f"{operator['name']}.{operator['overload']}".rstrip(".")] += 1
                elif instruction["instr_args_type"] == "DelegateCall":
                    calls[plan["delegates"][arguments["delegate_index"]]["id"]] += 1
    return calls


def _undelegated(program: Program) -> list[str]:
    return [
        f"operator {name} runs outside XNNPACK {count} times; linears belong inside"
        for name, count in _operators(program).items()
        if name.startswith(_LINEAR_OPERATORS)
    ]


def _metadata(program: Program) -> dict[str, object]:
    """The values of the program's constant methods."""
    found: dict[str, object] = {}
    for plan in program["execution_plan"]:
        if plan["name"] != "forward":
            values = [_plain(plan["values"][index]) for index in plan["outputs"]]
            found[plan["name"]] = values[0] if len(values) == 1 and plan["name"] != "get_eos_ids" else values
    return found


def _plain(value: Table) -> object:
    """A number, a text, a list of them, or the fields of anything else."""
    content = value.get("val", {})
    return next(iter(content.values())) if len(content) == 1 else content
