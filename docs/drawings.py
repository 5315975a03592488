"""Draws docs/images/*.svg: python docs/drawings.py. Plain rectangles, lines and text, readable on light and dark."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from regrow.io.atomic import write_atomically

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
    """One topology update of two layers; each grows what its importance gives it."""
    drawing = Drawing(880, 290, "One topology update of two layers")
    fills = {"a": ACTIVE, "x": GONE, "g": GROWN, ".": PALE}
    columns = {
        "1. before": ("aaa..a..aa", "aa..aa.aa."),
        "2. prune the smallest": ("axa..a..ax", "xa..ax.aa."),
        "3. share and grow": ("a.aggag.a.", ".ag.a..aa."),
    }
    for column, (title, layers) in enumerate(columns.items()):
        x = 100 + 264 * column
        drawing.text(x, 40, title, bold=True)
        for row, cells in enumerate(layers):
            y = 62 + 60 * row
            drawing.cells(x, y, [fills[cell] for cell in cells])
            drawing.text(x, y + 36, f"{len(cells) - cells.count('.') - cells.count('x')} active", size=12)
            if column == 0:
                drawing.text(x - 14, y + 14, f"layer {row + 1}", anchor="end")
        if column:
            drawing.arrow(x - 54, 102, x - 14, 102)
    drawing.text(
        100,
        206,
        "2 + 2 weights are free. If the importance of the layers is as 3 to 1, layer 1 grows 3 and layer 2 grows 1,",
    )
    drawing.text(
        100, 226, "each where the momentum of its missing weights is largest. 12 weights before, 12 weights after."
    )
    legend = {"active": ACTIVE, "pruned": GONE, "grown, from 0": GROWN, "missing": PALE}
    for at, (label, fill) in enumerate(legend.items()):
        drawing.box(100 + 150 * at, 250, 16, 16, fill=fill)
        drawing.text(122 + 150 * at, 263, label, size=13)
    drawing.save("update")


def layout() -> None:
    """Returns how a batch of activations lies in memory."""
    drawing = Drawing(880, 320, "The batch-blocked layout of activations")
    drawing.text(30, 36, "16 images, one channel", bold=True)
    for image in range(5, -1, -1):
        x, y = 40 + 12 * image, 64 + 12 * image
        for row in range(4):
            drawing.cells(x, y + 20 * row, [PALE] * 3 + [ACTIVE if row == 3 else PALE])
    drawing.text(30, 244, "the same pixel of 16 images …", size=13)
    drawing.arrow(210, 154, 268, 154)
    drawing.text(290, 36, "… is one vector", bold=True)
    drawing.cells(290, 144, [ACTIVE] * 16, size=10, step=11)
    drawing.text(290, 178, "16 lanes, one register of AVX-512 (8 of AVX2)", size=12)
    drawing.text(590, 36, "A plane of vectors, with a margin", bold=True)
    for row in range(5):
        colours = ["#ffffff" if row == 0 or column == 0 else PALE for column in range(5)]
        drawing.cells(590, 64 + 24 * row, colours, size=20, step=24)
    drawing.cells(614, 88, [ACTIVE], size=20)
    drawing.text(590, 204, "white cells hold zeros: no test at borders;", size=12)
    drawing.text(590, 221, "a row's margin also closes the row before it", size=12)
    drawing.text(30, 290, "In memory: [blocks of images] [channels] [1 + height] [1 + width] [lanes]")
    drawing.save("layout")


def forward() -> None:
    """One weight on one tile."""
    drawing = Drawing(880, 300, "The inner loop of the forward pass")
    _tile(drawing, 40, 70, "input channel i", ACTIVE, (1, 1))
    drawing.text(222, 146, "×", anchor="middle", size=22)
    drawing.box(250, 122, 76, 34, fill=GONE)
    drawing.text(288, 144, "w", anchor="middle", colour="#ffffff", bold=True)
    drawing.text(288, 178, "one weight,", anchor="middle", size=12)
    drawing.text(288, 194, "in all lanes", anchor="middle", size=12)
    drawing.arrow(346, 140, 440, 140)
    drawing.text(393, 128, "add to", anchor="middle", size=12)
    _tile(drawing, 470, 70, "output channel o, in registers", GROWN, (0, 0))
    drawing.text(680, 112, "for each active weight of o:", size=13)
    drawing.text(680, 134, "load the weight and its offset,", size=13)
    drawing.text(680, 156, "one multiply-add per vector,", size=13)
    drawing.text(680, 178, "straight from memory", size=13)
    drawing.text(
        40,
        262,
        "Every cell is a vector of images. The offset says which input channel and which tap of the kernel the weight",
    )
    drawing.text(
        40,
        282,
        "has, so each weight reads its tile somewhere else, while the accumulators stay where they are.",
    )
    drawing.save("forward")


def _tile(drawing: Drawing, x: int, y: int, title: str, fill: str, at: tuple[int, int]) -> None:
    """A plane of 6 x 6 vectors with a tile of 4 x 4 in it."""
    drawing.text(x, y - 20, title, bold=True)
    for row in range(6):
        inside = [at[0] <= row < at[0] + 4 and at[1] <= column < at[1] + 4 for column in range(6)]
        drawing.cells(x, y + 24 * row, [fill if one else PALE for one in inside], size=20, step=24)


def backward() -> None:
    """One gradient vector, two uses."""
    drawing = Drawing(880, 250, "The inner loop of the backward pass")
    drawing.box(30, 96, 150, 44, fill=GROWN, round_=6)
    drawing.text(105, 123, "dY, loaded once", anchor="middle", colour="#ffffff", bold=True)
    for y, by, gives, then in (
        (46, "× w", "dX of the tile, in registers", "stored once for all weights of the input channel"),
        (
            150,
            "× X of the same pixels",
            "one vector of partial sums for the weight",
            "lanes are added for 16 weights together",
        ),
    ):
        drawing.arrow(184, 118, 236, y + 22)
        drawing.box(244, y, 170, 44, round_=6)
        drawing.text(329, y + 27, by, anchor="middle")
        drawing.arrow(418, y + 22, 452, y + 22)
        drawing.box(460, y, 390, 44, round_=6)
        drawing.text(474, y + 19, gives, bold=True, size=13)
        drawing.text(474, y + 36, then, size=12)
    drawing.text(
        30,
        228,
        "Input gradient and weight gradient come from one pass over the active weights.",
    )
    drawing.save("backward")


def network() -> None:
    """Returns what stays in the layout, and what is only noted."""
    drawing = Drawing(880, 190, "Activations stay in the layout from the first convolution to the last")
    steps = ["images", "conv", "BatchNorm", "ReLU", "max pool", "conv", "flatten", "Linear"]
    notes = ["ordinary", "data", "moments, a line", "a flag", "data, by the line", "data", "ordinary", "ordinary"]
    for at, (step, note) in enumerate(zip(steps, notes, strict=True)):
        x, inside = 14 + 108 * at, 0 < at < 6
        drawing.box(x, 58, 92, 44, fill=ACTIVE if inside else PALE, round_=6)
        drawing.text(x + 46, 85, step, anchor="middle", colour="#ffffff" if inside else INK, size=13)
        drawing.text(x + 46, 122, note, anchor="middle", size=11)
        if at:
            drawing.arrow(x - 15, 80, x - 2, 80)
    drawing.text(122, 36, "in the kernels' layout", bold=True)
    drawing.text(
        14,
        164,
        "One conversion in, one out. BatchNorm and ReLU are computed by the operation behind them that needs data.",
        size=13,
    )
    drawing.save("network")


if __name__ == "__main__":
    for draw in (update, layout, forward, backward, network):
        draw()
