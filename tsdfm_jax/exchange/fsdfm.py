"""FS-DFM's checkpoints (arXiv 2509.20624): the names of their tensors, and their conversion to our parameters.

Nothing here computes with torch. A checkpoint is loaded as tensors alone, never as other objects. It is mapped into memory if
its format allows it, and converted one tensor at a time.
"""

import dataclasses
import pathlib
import pickle
import re

import numpy as np

from tsdfm_jax.models import attention, transformer
from tsdfm_jax.storage import places

WRAPPERS = ("module", "_orig_mod")  # DistributedDataParallel, AveragedModel and torch.compile add these to names
# Stored beside the parameters: rotary frequencies, which the head size implies, and the update count of an averaged model.
BUFFER = re.compile(r"(^|\.)rotary_emb\.inv_freq$|^n_averaged$")
TABLE, TIME, MLP = "vocab_embed.weight", "time_embedding.mlp.0.weight", "blocks.0.mlp.0.weight"
STUDENT = "dt_embedding."
HEADS_HINT = "FS-DFM's have 12 at width 768 and 32 at width 2048"

# Our module -> theirs. `{}` stands for the number of the block.
NAMES = {
    "vocab_embed": "vocab_embed",
    "conditioning/time_embedding/in": "time_embedding.mlp.0",
    "conditioning/time_embedding/out": "time_embedding.mlp.2",
    "conditioning/dt_embedding/in": "dt_embedding.mlp.0",
    "conditioning/dt_embedding/out": "dt_embedding.mlp.2",
    "conditioning/time_condition_fuser": "time_condition_fuser",
    "blocks/mlp_in": "blocks.{}.mlp.0",
    "blocks/mlp_out": "blocks.{}.mlp.2",
    "output_layer/norm_final": "output_layer.norm_final",
    "output_layer/adaLN_modulation": "output_layer.adaLN_modulation",
    "output_layer/condition_fuser": "output_layer.condition_fuser",
    "output_layer/linear": "output_layer.linear",
}
BLOCK = ("norm1", "qw", "kw", "vw", "attn_out", "norm2", "adaLN_modulation", "condition_fuser")
NAMES |= {f"blocks/{name}": f"blocks.{{}}.{name}" for name in BLOCK}


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """The tensors of one network in a checkpoint.

    Attributes:
      file: the checkpoint.
      dictionary: name of their dictionary in the file, "" if they are the file's top level.
      tensors: {name without wrappers: torch tensor}, only parameters.
      frequencies: the rotary frequencies, None if the file has none.
    """

    file: pathlib.Path
    dictionary: str
    tensors: dict
    frequencies: np.ndarray | None

    @property
    def student(self):
        """Whether the network is conditioned on the step size."""
        return any(name.startswith(STUDENT) for name in self.tensors)


def read(file, dictionary=""):
    """The State of a checkpoint; `dictionary` is needed only if the file holds several networks.

    Raises ValueError, one line, for a file that is missing, damaged, ambiguous or holds more than tensors, and without torch.
    """
    file = places.expanded(file)
    body = _open(file)
    if not isinstance(body, dict):
        raise ValueError(f"{file} holds {type(body).__name__}, not a dictionary of tensors: save the network's state_dict")
    networks = {str(key): value for key, value in body.items() if isinstance(value, dict) and _is_network(value)}
    if dictionary:
        if dictionary not in networks:
            raise ValueError(
                f"{file} has no network under '{dictionary}', but {_listed(networks) or 'none at all'}: give one of these"
            )
        body = networks[dictionary]
    elif _is_network(body):
        body = {name: value for name, value in body.items() if name not in networks}
    elif len(networks) == 1:
        ((dictionary, body),) = networks.items()
    elif networks:
        raise ValueError(f"{file} holds several networks: give --dictionary, one of {_listed(networks)}")
    else:
        keys = ", ".join(sorted(map(str, body))[:8])
        raise ValueError(f"{file} holds no network of FS-DFM ('{TABLE}' is nowhere; it has {keys or 'nothing'}): give another file")
    return _state(file, dictionary, body)


def _open(file):
    try:
        import torch  # late: only an import needs it
    except ImportError:
        raise ValueError(f"{file} needs the package 'torch': pip install 'tsdfm_jax[fsdfm]'") from None
    if not file.is_file():
        raise ValueError(f"no checkpoint {str(file)!r}: give a .pth of FS-DFM")
    for mapped in (True, False):  # files of the older format cannot be mapped
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            cause = re.search(r"WeightsUnpickler error: ([^\n]*?)(?: was not|\.?\s*\n|\.?\s*$)", str(error))
            raise ValueError(
                f"{file} holds more than tensors, or is damaged ({cause[1] if cause else 'it is no pickle of tensors'}): nothing but "
                f"tensors is loaded from it; where you trust it, save the state_dict alone with torch.save"
            ) from None
        except Exception as error:  # torch raises RuntimeError, EOFError, and others for a damaged file
            reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
    raise ValueError(f"{file} cannot be read as a checkpoint of PyTorch ({reason}): download it again")


def _listed(names):
    return ", ".join(sorted(names))


def unwrapped_name(name):
    """A tensor's name without wrappers; a fuser may be a module of its own or the first of a sequence."""
    name = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
    return re.sub(r"condition_fuser\.0\.", "condition_fuser.", name)


def _is_network(body):
    return any(unwrapped_name(name) == TABLE for name in body)


def _state(file, dictionary, body):
    import torch

    tensors, frequencies, original = {}, [], {}
    for name, value in body.items():
        short_name = unwrapped_name(name)
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{file}: '{name}' is {type(value).__name__}, not a tensor: save the network's state_dict alone")
        if BUFFER.search(short_name):
            frequencies += [value] if short_name.endswith("inv_freq") else []
            continue
        if short_name in tensors:
            raise ValueError(
                f"{file} holds both '{original[short_name]}' and '{name}', which are one parameter: take one of them out"
            )
        tensors[short_name], original[short_name] = value, name
    sizes = {tuple(value.shape) for value in frequencies}
    if len(sizes) > 1 or any(len(size) != 1 or not size[0] for size in sizes):
        raise ValueError(
            f"{file}: rotary_emb.inv_freq has the shapes {sorted(sizes)}, not one of (half a head,): download it again"
        )
    rotary_array = frequencies[0].detach().float().numpy() if frequencies else None
    return State(file=file, dictionary=dictionary, tensors=tensors, frequencies=rotary_array)


def network(state, heads=0):
    """The TransformerConfig that a State's shapes imply; `heads` is needed only if the file has no rotary frequencies.

    Raises ValueError, one line, for shapes that no network of this kind has and for an impossible number of heads.
    """
    vocab, width = _shape(state, TABLE, 2)
    cond_width, features = _shape(state, TIME, 2)
    hidden, _ = _shape(state, MLP, 2)
    if features != transformer.SINUSOIDS:
        raise ValueError(
            f"{state.file}: '{TIME}' reads {features} features of the time, not {transformer.SINUSOIDS}: not of FS-DFM"
        )
    if hidden % width:
        raise ValueError(f"{state.file}: '{MLP}' has {hidden} rows, no multiple of the width {width}: not of FS-DFM")
    numbers = {int(name.split(".")[1]) for name in state.tensors if re.match(r"blocks\.\d+\.", name)}
    if gaps := set(range(len(numbers))) - numbers:
        raise ValueError(f"{state.file} lacks block {min(gaps)} of {max(numbers) + 1}: not a whole network of FS-DFM")
    return transformer.TransformerConfig(
        vocab=vocab,
        blocks=len(numbers),
        width=width,
        heads=_heads(state, width, heads),
        cond_width=cond_width,
        mlp_ratio=hidden // width,
        step_conditioned=state.student,
    )


def _shape(state, name, axes):
    if name not in state.tensors:
        raise ValueError(f"{state.file} lacks '{name}': not a whole network of FS-DFM")
    if len(shape := tuple(state.tensors[name].shape)) != axes or not all(shape):
        raise ValueError(f"{state.file}: '{name}' has shape {shape}, not {axes} axes: not of FS-DFM")
    return shape


def _heads(state, width, heads):
    frequencies = state.frequencies
    if frequencies is None and not heads:
        raise ValueError(f"{state.file} has no rotary_emb.inv_freq to tell the number of heads: give --heads ({HEADS_HINT})")
    if frequencies is not None:
        size = 2 * len(frequencies)
        if width % size or (heads and heads != width // size):
            raise ValueError(
                f"{state.file}: width {width} and {len(frequencies)} rotary frequencies make no {heads or 'whole'} heads of {size}"
            )
        # bfloat16 keeps 8 bits.
        if not np.allclose(
            frequencies, attention.ROTARY_BASE ** (-np.arange(len(frequencies)) / len(frequencies)), rtol=1e-2, atol=0
        ):
            raise ValueError(f"{state.file}: rotary_emb.inv_freq is not of base {attention.ROTARY_BASE}, which is not implemented")
        return width // size
    if heads < 1 or width % heads or (width // heads) % 2:
        raise ValueError(f"--heads={heads} does not split width {width} into heads of even size ({HEADS_HINT})")
    return heads


def parameters(state, abstract):
    """{"blocks/qw/kernel": float32 numpy array} of a State; `abstract` has the shapes by the same names.

    Raises ValueError for the first tensor that is missing, unknown, of another shape or type, or not finite.
    """
    names = {path: _their_name(path) for path in abstract}
    blocks = {path: abstract[path].shape[0] for path, name in names.items() if "{}" in name}
    shapes = {}
    for path, name in names.items():
        shape = abstract[path].shape[path in blocks :]
        shape = shape[::-1] if path.endswith("/kernel") else shape
        shapes |= {name.format(block): shape for block in range(blocks.get(path, 1))}
    _match(state, shapes)
    return {path: _array(state, path, name, blocks.get(path), abstract[path].shape) for path, name in names.items()}


def _their_name(path):
    """Their name of one of our parameters."""
    module, _, leaf = path.rpartition("/")
    return f"{NAMES[module]}.{'bias' if leaf == 'bias' else 'weight'}"


def _match(state, shapes):
    kind = "student" if state.student else "teacher"
    if missing := [name for name in shapes if name not in state.tensors]:
        raise ValueError(
            f"{state.file} lacks '{missing[0]}' ({len(missing)} of a {kind}'s {len(shapes)} names missing): download it again"
        )
    for name, value in state.tensors.items():
        if name not in shapes:
            raise ValueError(f"{state.file} holds '{name}', which a {kind} of FS-DFM has not: it is of another network")
        if tuple(value.shape) != shapes[name]:
            raise ValueError(f"{state.file}: '{name}' has shape {tuple(value.shape)}, not {shapes[name]}: it is of another network")


def _array(state, path, name, blocks, shape):
    """One of our parameters; their tensors are read one by one, blocks stacked into one array, kernels transposed."""

    def our_tensor(name):
        value = _numbers(state, name)
        return value.T if path.endswith("/kernel") else value

    if blocks is None:
        return np.ascontiguousarray(our_tensor(name))
    whole = np.empty(shape, np.float32)
    for block in range(blocks):
        whole[block] = our_tensor(name.format(block))
    return whole


def _numbers(state, name):
    """A tensor as float32 numpy, exactly."""
    import torch

    value = state.tensors[name].detach()
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"{state.file}: '{name}' is of type {value.dtype}, not of float32, bfloat16 or float16: it is not imported"
        )
    array = value.to(torch.float32).numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{state.file}: '{name}' holds values that are no numbers: download it again")
    return array
