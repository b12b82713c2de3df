"""The size of a checkout: all tracked files together stay small."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MOST = 16_000_000  # bytes


def tracked():
    """The files that git tracks in this checkout; skips the test where there is no git."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: what is tracked is not known")
    try:
        told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git does not list its files ({error}): what is tracked is not known")
    return [file for name in told.decode().split("\0") if name and (file := ROOT / name).is_file()]


def test_all_tracked_files_together_are_small():
    """All tracked files, models and results included, are below MOST bytes; the message names the largest five."""
    sizes = {file: file.stat().st_size for file in tracked()}
    assert ROOT / "README.md" in sizes
    heaviest = [f"{file.relative_to(ROOT)}: {size:,}" for file, size in sorted(sizes.items(), key=lambda item: -item[1])[:5]]
    assert sum(sizes.values()) < MOST, f"{sum(sizes.values()):,} bytes are tracked; the heaviest are {heaviest}"
