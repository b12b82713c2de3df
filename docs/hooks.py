"""MkDocs hooks: pages that live at the root of the repository, and the tables of config keys, made from the bases in configs/."""

import ast
import io
import pathlib
import re
import tokenize

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", "results/STUDY.md", "results/speed.md")
KEYS = re.compile(r"<!-- config keys of (\w+\.py) -->")


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
    return KEYS.sub(lambda marker: config_keys(ROOT / "configs" / marker[1]), markdown)


def config_keys(file):
    """A table for each section of a base: key, default, meaning. Raises PluginError for a key or section without a comment.

    The keys of `optimiser` stand where that function does; another base, which imports it, refers to that page.
    """
    source = file.read_text()
    behind, above = comments(source)
    tree = ast.parse(source)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    own = "optimiser" in functions
    rows, meanings = {}, {"optimiser": ast.get_docstring(functions["optimiser"])} if own else {}
    link = "[optimiser](#optimiser)" if own else "[optimiser](config.md#optimiser)"
    for prefix, function in (("", "get_config"), ("optimiser.", "optimiser")):
        for node in functions[function].body if function in functions else ():
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
                value, meaning = f"see {link}", f"as there, with `{changes}`" if changes else "as there"
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
    """Text as a table cell, with the markers of Markdown escaped, except in code."""
    return re.sub(r"(`[^`|]*`)|([|*_<])", lambda found: found[1] or "\\" + found[2], text)


def sentence(text):
    """Text with a capital and a full stop."""
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
