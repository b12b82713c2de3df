"""Pretrained judges: GPT-2 and Llama from a directory in the published format, read directly onto a mesh."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tsdfm_jax.data import tensors as stored, tokenizer
from tsdfm_jax.evaluation import judging, published
from tsdfm_jax.models import causal
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.storage import places

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SECONDS_TO_ANSWER = 10
DTYPES = ("float32", "bfloat16")
ROWS = 4096  # rows of a table to compare at a time


def load(name, mesh=None, dtype="float32"):
    """Load the judging.Judge in directory `name`, or of that name on the Hugging Face hub, on `mesh` (one device if None).

    A directory holds config.json (model_type gpt2, llama, or mistral without a sliding window), tokenizer.json, and
    model.safetensors or its shards with model.safetensors.index.json, in float32, float16 or bfloat16. `dtype`, float32
    or bfloat16, is the type of the weights and of the computation.
    Raises ValueError, in one line, for what is missing, damaged, not implemented or not as in the config.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    directory = find(name)
    mesh = meshes.make_mesh(meshes.MeshConfig(), jax.local_devices()[:1]) if mesh is None else mesh
    config = stored.read_json(directory / CONFIG)
    kind, cfg = published.network(directory / CONFIG, config, dtype)
    tok = _tokenizer(directory, cfg)
    bos, policy = _bos(directory, config, cfg, tok)
    files = stored.Tensors(directory)
    return judging.Judge(
        cfg=cfg,
        params=parameters(kind, cfg, directory, files, mesh),
        tokenizer=tok,
        bos=bos,
        bos_policy=policy,
        context=cfg.length,
        name=str(name),
        hash=files.hash(),
        settings=config,
    )


def find(name):
    """The directory of a model: `name` itself, or the downloaded files of that name on the hub."""
    directory = places.expanded(name)
    if directory.is_dir():
        return directory
    needed_files = f"{CONFIG}, {stored.SINGLE} and {TOKENIZER}"
    if not HUB_NAME.fullmatch(str(name)):
        raise ValueError(f"no directory {str(name)!r}: give one that holds {needed_files}, or a name on the Hugging Face hub")
    remedy = f"download its {needed_files} and give their directory"
    try:
        import huggingface_hub  # late: optional
    except ImportError:
        raise ValueError(f"no directory {name!r}; to fetch it needs pip install 'tsdfm_jax[hf]': do so, or {remedy}") from None
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(name, allow_patterns=list(stored.PATTERNS), etag_timeout=SECONDS_TO_ANSWER)
        )
    except Exception as error:  # its own errors, its HTTP client's, or OSError
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"no directory {name!r}, and the hub did not give it ({reason}): {remedy}") from None


def parameters(kind, cfg, directory, files, mesh):
    """A network's parameters from its published tensors, each array read part by part into its sharding.

    Raises ValueError for the first name that is missing, not of this network, or of another shape than in the config.
    """
    abstract = meshes.abstract(mesh, lambda: causal.init(jax.random.key(0), cfg))
    leaves = traverse_util.flatten_dict(abstract, sep="/")
    sources = {path: kind.source(path) for path in leaves}
    wanted = {}  # published name, without its prefix -> shape in the file
    for path, source in sources.items():
        stacked = "{}" in source.name
        shape = source.shape(leaves[path].shape[stacked:])
        wanted |= {source.name.format(block): shape for block in range(cfg.blocks if stacked else 1)}
    stored_names = _match(kind, directory, files, wanted)
    params = {path: _put(files, stored_names, sources[path], leaf, cfg) for path, leaf in leaves.items()}
    return traverse_util.unflatten_dict(params, sep="/")


def _match(kind, directory, files, wanted):
    """{wanted name: name in the files}; ValueError unless the names and shapes match exactly."""
    stored_names, config = {}, directory / CONFIG
    for name in sorted(files.shapes):
        plain = name.removeprefix(kind.prefix)
        if published.IGNORED.search(plain):
            continue
        if plain == "lm_head.weight" and plain not in wanted:  # tied: must be a copy of the embedding
            _check_copy(kind, directory, files, name)
            continue
        if plain not in wanted:
            raise ValueError(f"{files.path[name]} holds '{name}', which a model of {config} has not: they are not of one model")
        if plain in stored_names:
            raise ValueError(f"{files.path[name]} holds both '{stored_names[plain]}' and '{name}': download it again")
        if files.shapes[name] != wanted[plain]:
            raise ValueError(
                f"{files.path[name]}: '{name}' has shape {files.shapes[name]}, but {config} says {wanted[plain]}: "
                f"they are not of one model"
            )
        stored_names[plain] = name
    if missing := [name for name in wanted if name not in stored_names]:
        listed = files.files[0] if len(files.files) == 1 else directory / stored.INDEX
        raise ValueError(f"{listed} lacks '{missing[0]}' ({len(missing)} of {len(wanted)} names missing): download it again")
    return stored_names


def _check_copy(kind, directory, files, name):
    plain = kind.source(kind.table).name
    table = next((full for full in (plain, kind.prefix + plain) if full in files.shapes), None)
    if table is None:
        return  # _match reports it
    same = files.shapes[name] == files.shapes[table]
    for first in range(0, files.shapes[table][0] if same else 0, ROWS):
        rows = (slice(first, first + ROWS), slice(None))
        same = same and np.array_equal(files.read(name, rows), files.read(table, rows))
    if not same:
        raise ValueError(f"{files.path[name]}: '{name}' is not '{table}', but {directory / CONFIG} says tied: download it again")


def _put(files, stored_names, source, leaf, cfg):
    """One array in its sharding, from one tensor, or from one tensor a block."""
    dtype = jnp.dtype(cfg.dtype)

    def part(index):
        if "{}" not in source.name:
            return source.read(files, stored_names[source.name], index, leaf.shape).astype(dtype)
        blocks = range(cfg.blocks)[index[0]]
        rows = (source.read(files, stored_names[source.name.format(block)], index[1:], leaf.shape[1:]) for block in blocks)
        whole = np.empty([at.stop - at.start for at in index], dtype)
        for row, value in enumerate(rows):
            whole[row] = value
        return whole

    return meshes.read_parts(leaf, part)


def _tokenizer(directory, cfg):
    if not (path := directory / TOKENIZER).is_file():
        raise ValueError(f"{path} is missing: copy or download it")
    tok = tokenizer.read(path)
    if tok.vocab_size > cfg.vocab:
        raise ValueError(
            f"{path} has {tok.vocab_size} tokens, but {directory / CONFIG} a vocab_size of {cfg.vocab}: they are not of one model"
        )
    return tok


def _bos(directory, config, cfg, tok):
    bos = config.get("bos_token_id")
    if bos is None:
        return tok.eos_id, "the tokenizer's document end"
    if type(bos) is not int or not 0 <= bos < cfg.vocab:
        raise ValueError(f"{directory / CONFIG}: bos_token_id {bos!r} is not one of the {cfg.vocab} tokens: download it again")
    return bos, "bos_token_id of config.json"
