"""Matplotlib figures as inline SVG with the page's colours and fonts."""

import io
import re
from xml.etree import ElementTree

# Placeholder colours for Matplotlib; `restyle` replaces them by the page's variables (see `page.css`).
INK, SOFT, RULE, ACCENT = "#010101", "#010102", "#010103", "#010104"
VARIABLES = {INK: "ink", SOFT: "soft", RULE: "rule", ACCENT: "accent"}
OWN = {"teacher": "#010201", "student_shaped": "#010202", "student_blind": "#010203", "autoregressive": "#010204"}
MODELS = OWN | {"data": INK, "unigram": SOFT, "real": INK, "start": SOFT}
MODELS |= {
    "ntm": OWN["student_shaped"],
    "ntm_identity": OWN["teacher"],
    "flow_matching": OWN["student_blind"],
}  # of the other method
OTHERS = ("#010301", "#010302", "#010303", "#010304")
VARIABLES |= {hexed: m.removeprefix("student_") for m, hexed in OWN.items()}
VARIABLES |= {hexed: f"other-{i}" for i, hexed in enumerate(OTHERS)}
STYLE = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": SOFT,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
}
NAMESPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


def colour(model, known=()):
    """The colour of a model, the same in every figure; texts from elsewhere get theirs by their position in `known`."""
    others = [m for m in known if m not in MODELS]
    return MODELS.get(model) or OTHERS[others.index(model) % len(OTHERS) if model in others else 0]


def variable(model, known=()):
    """The page's variable for a model's colour, as `var(--shaped)`."""
    return f"var(--{VARIABLES[colour(model, known)]})"


def draw(name, paint, aria_label, size=(3.7, 2.8)):
    """Inline SVG of what `paint(axes)` draws.

    `name` is unique on the page, `aria_label` is the text for screen readers, `size` is in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    return adapt(out.getvalue(), aria_label)


def adapt(text, aria_label):
    """Turn Matplotlib's SVG into an element of the page: colours as variables, no fonts, no style sheet, no unused ids."""
    root = ElementTree.fromstring(text)
    used = set(re.findall(r'url\(#(\w+)\)|href="#(\w+)"', text))
    used = {name for pair in used for name in pair if name}
    for parent in root.iter():
        for child in [c for c in parent if c.tag == NAMESPACE + "style"]:
            parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.removeprefix(NAMESPACE)
        if node.get("id") not in used:
            node.attrib.pop("id", None)
        if LINK in node.attrib:
            node.set("href", node.attrib.pop(LINK))
        if "style" in node.attrib:
            node.set("style", restyle(node.get("style")))
        if "d" in node.attrib:
            node.set("d", " ".join(node.get("d").split()))
        if node.tag != "text":
            node.text = node.text.strip() or None if node.text else None
        node.tail = None
    view = root.get("viewBox")
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "role": "img", "aria-label": aria_label})
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def restyle(style):
    """A style attribute with the page's variables in place of the placeholder colours, and without a font."""
    style = re.sub(r"font-family:[^;]*;?", "", style)
    return re.sub(r"#0[0-9a-f]{5}", lambda m: f"var(--{VARIABLES.get(m[0], 'ink')})", style).strip().rstrip(";")
