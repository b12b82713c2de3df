"""Import of a checkpoint of FS-DFM to a model directory; launch/import_fsdfm.py is the command."""

import pathlib

from flax import traverse_util

from tsdfm_jax.data import tokenizer as tokenizers
from tsdfm_jax.exchange import fsdfm, model_card, model_directory
from tsdfm_jax.flow import jump as jumps, path as paths
from tsdfm_jax.runtime import mesh as meshes
from tsdfm_jax.storage import atomic

GPT2 = 50_257  # tokens of GPT-2's tokenizer


def convert(
    checkpoint,
    out,
    *,
    dictionary="",
    heads=0,
    source="",
    tokenizer="",
    length=1024,
    exponent=1.0,
    jump="cumulative",
    force=False,
    command=None,
):
    """Import a checkpoint into the directory `out`; returns its model_directory.About.

    The arguments are the command's flags, and `command`, the command line that config.json records. Raises ValueError, one
    line, for a checkpoint that cannot be imported, or an `out` that is in use.
    """
    model_directory.check_free(out, force)
    jumps.check(jump)
    if not 1 <= length < 2**31 or not 0 < exponent < float("inf"):
        raise ValueError(f"--length={length} and --exponent={exponent} must be above 0")
    tok = tokenizers.from_file(tokenizer) if tokenizer else None
    state = fsdfm.read(checkpoint, dictionary)
    network = fsdfm.network(state, heads)
    path = path_of(network.vocab, tok, source, exponent)
    shapes = model_directory.abstract(network, meshes.make_mesh(meshes.MeshConfig()))
    params = fsdfm.parameters(state, traverse_util.flatten_dict(shapes, sep="/"))
    file = {"file": pathlib.Path(checkpoint).name, "sha256": atomic.sha256(pathlib.Path(checkpoint))}
    kind = "student" if state.student else "teacher"
    about = model_directory.About(
        directory=pathlib.Path(out),
        kind=kind,
        name=kind,
        network=network,
        length=length,
        path=path,
        jump=jump,
        tokenizer=None if tok is None else tok.content_hash,
        origin={"imported_from": "FS-DFM", **file, "dictionary": state.dictionary, "command": command},
    )
    return model_directory.write(about, params, model_card.imported, tokenizer=tokenizer or None, force=force)


def path_of(vocab, tok, source, exponent):
    """The path of a network over `vocab` tokens; its source follows from the tokenizer's size (GPT-2's if None), or is `source`."""
    text_vocab = GPT2 if tok is None else tok.vocab_size
    implied_source = {text_vocab: "uniform", text_vocab + 1: "mask"}.get(vocab)
    if tok is not None and implied_source is None:
        raise ValueError(
            f"--tokenizer has {text_vocab:,} tokens, but the network {vocab:,}, neither as many nor one more: give its own"
        )
    if implied_source is None and not source:
        raise ValueError(
            f"the network has {vocab:,} tokens, which does not tell its source (GPT-2's {GPT2:,} would be uniform, one more mask): "
            f"give --source=uniform, or --source=mask where the last is the mask, or its --tokenizer"
        )
    if tok is not None and source not in ("", implied_source):
        raise ValueError(
            f"--source={source} does not go with {vocab:,} tokens and a tokenizer of {text_vocab:,}: that is {implied_source}"
        )
    source = source or implied_source
    return paths.Path(source=source, exponent=exponent, text_vocab=vocab - (source == "mask"))
