"""An artefact that is made again grows beside the old one, and takes its place when it is whole."""

import pathlib
import shutil

from tsdfm_jax.lineage import bookkeeping

DRAFTS, REPLACED = ".remaking", ".replaced"


def root(workdir: pathlib.Path) -> pathlib.Path:
    """Where drafts grow; it is laid out as the work directory."""
    return workdir / DRAFTS


def install(workdir: pathlib.Path, name: str) -> None:
    """Put a finished draft in the place of the artefact `name`, which is deleted once the draft is there."""
    draft, place, old = root(workdir) / name, workdir / name, workdir / REPLACED / name
    make_own(workdir, name)
    _delete(old)
    if place.exists() or place.is_symlink():
        old.parent.mkdir(parents=True, exist_ok=True)
        place.rename(old)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(place)
    clear(workdir, name)


def recover(workdir: pathlib.Path, name: str, identity: str) -> None:
    """Finish or undo an `install` that a kill cut short; `identity` is what the artefact should have."""
    draft, place, old = root(workdir) / name, workdir / name, workdir / REPLACED / name
    is_wanted = lambda directory: (bookkeeping.done(directory) or {}).get("identity") == identity
    if is_wanted(draft) and not is_wanted(place):
        install(workdir, name)
    elif not place.exists() and old.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        old.rename(place)
    else:
        clear(workdir, name)


def discard(workdir: pathlib.Path, name: str) -> None:
    """Delete a draft."""
    _delete(root(workdir) / name)
    clear(workdir, name)


def clear(workdir: pathlib.Path, name: str) -> None:
    """Delete what was replaced, and the folders that an installed or deleted draft leaves empty."""
    _delete(workdir / REPLACED / name)
    for top in (workdir / DRAFTS, workdir / REPLACED):
        for folder in (top / name, *(top / name).parents):
            if top not in (folder, *folder.parents):
                break
            try:
                folder.rmdir()
            except OSError:  # not empty, or not there
                continue


def make_own(workdir: pathlib.Path, name: str) -> None:
    """Turn linked folders above an artefact into folders of links, so that nothing is written into another work directory."""
    for folder in [*(workdir / name).parents][::-1]:
        if workdir in folder.parents and folder.is_symlink():
            target = folder.resolve()
            folder.unlink()
            folder.mkdir()
            for entry in target.iterdir():
                (folder / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())


def unlink(workdir: pathlib.Path, name: str) -> None:
    """Remove a link in the place of an artefact that is to be made here; what it leads to stays."""
    make_own(workdir, name)
    if (workdir / name).is_symlink():
        (workdir / name).unlink()


def _delete(path):
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
