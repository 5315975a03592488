"""Draws docs/images/*.svg: python docs/drawings.py. Plain rectangles, lines and text, readable on light and dark."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from regrow.files import write_atomically

HERE = Path(__file__).parent
INK, PALE, LINE = "#22303c", "#eef2f5", "#9fb0bd"
ACTIVE, GONE, GROWN = "#00796b", "#d55e00", "#0072b2"  # told apart by the colour-blind


class Drawing:
    """An SVG under construction; units are pixels."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="14" role="img"><title>{escape(title)}</title>',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>',
        ]
        self.box(0, 0, width, height, fill="#ffffff", line="#ffffff", round_=8)

    def box(self, x, y, width, height, fill=PALE, line=LINE, round_=0):
        shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="{round_}"'
        self.parts.append(f'<rect {shape} fill="{fill}" stroke="{line}"/>')

    def text(self, x, y, words, anchor="start", colour=INK, bold=False, size=14):
        weight = ' font-weight="bold"' if bold else ""
        where = f'x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"'
        self.parts.append(f"<text {where}{weight}>{escape(words)}</text>")

    def arrow(self, x1, y1, x2, y2):
        ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
        self.parts.append(f'<line {ends} stroke="{INK}" stroke-width="1.5" marker-end="url(#head)"/>')

    def cells(self, x, y, colours, size=18, step=20):
        for at, colour in enumerate(colours):
            self.box(x + at * step, y, size, size, fill=colour, line=LINE)

    def save(self, name):
        with write_atomically(HERE / "images" / f"{name}.svg") as file:
            file.write_text("\n".join([*self.parts, "</svg>"]) + "\n")


def update() -> None:
    """One topology update of two layers; each grows what momentum gives it."""
    drawing = Drawing(880, 300, "One topology update of two layers")
    columns = [("1. before", 110), ("2. prune the smallest", 370), ("3. share and grow", 630)]
    before = {"layer 1": "aaa..a..aa", "layer 2": "aa..aa.aa."}
    pruned = {"layer 1": "axa..a..ax", "layer 2": "xa..xx.aa."}
    grown = {"layer 1": "a.ag.ag.ag", "layer 2": ".ag....aa."}
    colour = {"a": ACTIVE, "x": GONE, "g": GROWN, ".": PALE}
    for (title, x), rows in zip(columns, (before, pruned, grown), strict=True):
        drawing.text(x, 40, title, bold=True)
        for row, (name, cells) in enumerate(rows.items()):
            y = 64 + 60 * row
            drawing.cells(x, y, [colour[cell] for cell in cells])
            active = cells.count("a") + cells.count("g")
            drawing.text(x, y + 36, f"{active} active", size=12)
            if x == columns[0][1]:
                drawing.text(x - 16, y + 14, name, anchor="end")
    drawing.arrow(322, 104, 360, 104)
    drawing.arrow(582, 104, 620, 104)
    drawing.text(110, 212, "Weights pruned: 2 + 3 = 5. Importance (mean |momentum| of active weights) is 3 : 2 here, so layer 1")
    drawing.text(110, 232, "grows 3 and layer 2 grows 2... where the momentum of missing weights is largest. 12 before, 12 after.")
    for at, (label, fill) in enumerate([("active", ACTIVE), ("pruned", GONE), ("grown, starts at 0", GROWN), ("missing", PALE)]):
        drawing.box(110 + 150 * at, 258, 16, 16, fill=fill)
        drawing.text(132 + 150 * at, 271, label, size=13)
    drawing.save("update")
