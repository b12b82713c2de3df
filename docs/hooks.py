"""MkDocs hooks: pages that live at the root of the repository, and the table of config keys, made from configs/base.py."""

import ast
import io
import pathlib
import re
import tokenize

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", "results/STUDY.md", "results/speed.md")
KEYS = "<!-- config keys -->"


def on_files(files, config):
    """Add the pages and figures that live outside docs/."""
    for name in [*PAGES, *(str(f.relative_to(ROOT)) for f in sorted(ROOT.glob("results/study/*.svg")))]:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links out of docs/ into links to pages of the site, and put the tables into the config page."""
    markdown = re.sub(r"\]\(\.\./(CONTRIBUTING\.md|CHANGELOG\.md|results/)", r"](\1", markdown)
    if page.file.src_uri in ("CONTRIBUTING.md", "CHANGELOG.md"):
        markdown = markdown.replace("](docs/", "](")
    markdown = re.sub(r"^\|.*$", lambda row: row[0].replace(", ×", ",&nbsp;×"), markdown, flags=re.M)  # one judge beside the other
    if KEYS in markdown:
        markdown = markdown.replace(KEYS, config_keys(ROOT / "configs/base.py"))
    return markdown


def config_keys(file):
    """A table for each section of base.py: key, default, meaning. Raises PluginError for a key or section without a comment."""
    source = file.read_text()
    behind, above = comments(source)
    tree = ast.parse(source)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    rows, meanings = {}, {"optimiser": ast.get_docstring(functions["optimiser"])}
    for prefix, function in (("", functions["get_config"]), ("optimiser.", functions["optimiser"])):
        for node in function.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if not isinstance(target, ast.Attribute):
                continue
            key = prefix + ast.unparse(target).removeprefix("c.")
            comment = " ".join([*above.get(node.lineno, ()), *behind.get(node.end_lineno, ())])
            if ast.unparse(node.value) == "ConfigDict()":
                meanings[key] = comment
                rows.setdefault(key, [])
                continue
            section, _, leaf = key.rpartition(".")
            meaning, value = comment, ast.unparse(node.value)
            if value.startswith("optimiser("):
                changes = value.removeprefix("optimiser(").removesuffix(")")
                value, meaning = "see [optimiser](#optimiser)", f"as there, with `{changes}`" if changes else "as there"
            else:
                value = f"`{ast.get_source_segment(source, node.value)}`"
            if not meaning:
                raise PluginError(f"{file}:{node.lineno}: {key} has no comment that says what it means")
            rows.setdefault(section, []).append((key if section != "optimiser" else leaf, value, meaning))
    parts = []
    for section, keys in rows.items():
        if not keys:
            raise PluginError(f"{file}: section {section} has no keys")
        if section and not meanings[section]:
            raise PluginError(f"{file}: section {section} has no comment that says what it is")
        table = [f"| `{key}` | {value} | {cell(meaning)} |" for key, value, meaning in keys]
        head = f"## {section} {{ #{section} }}\n\n{sentence(meanings[section])}\n\n" if section else "## The run { #run }\n\n"
        parts.append(head + "\n".join(["| key | default | meaning |", "|---|---|---|", *table]))
    return "\n\n".join(parts)


def comments(source):
    """({line: (comment,)} of comments behind code, {line: (comments,)} of comment lines right above a line of code)."""
    behind, alone = {}, {}
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, text = token.start[0], token.string.lstrip("# ").strip()
            (alone if lines[number - 1].lstrip().startswith("#") else behind)[number] = (text,)
    above = {}
    for number in sorted(alone):
        code_line = number
        while code_line in alone:
            code_line += 1
        if lines[code_line - 1].strip():
            above[code_line] = above.get(code_line, ()) + alone[number]
    return behind, above


def cell(text):
    """Text as a table cell, with the markers of Markdown escaped."""
    return re.sub(r"([|*_<])", r"\\\1", text)


def sentence(text):
    """Text with a capital and a full stop."""
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
