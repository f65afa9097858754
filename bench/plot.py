"""
Draws the results of `make bench`: an SVG for each figure, with a bar for each program and its least and most.

    python -m bench.plot FOLDER RESULT.json [RESULT.json ...]

With several results, for example of several versions of Python, the bars of one program are next to each other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench.figures import FIGURES

LEFT, BARS, RIGHT, ROW, TOP = 250, 340, 190, 20, 34
OURS, FLOOR, PEER = "#3b6fb5", "#b4b9c2", "#d98a2b"
COLOURS = {"floor": FLOOR, "interpreter": FLOOR, "tomllib": FLOOR, "peer": PEER}
PACKAGES = 15

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart, with its label."""

    label: str
    value: float
    least: float
    most: float
    note: str = ""
    colour: str = OURS


def chart(title: str, bars: Sequence[Bar]) -> str:
    """The chart as SVG."""
    scale = BARS / (max(bar.most for bar in bars) or 1)
    height = TOP + ROW * len(bars) + 8
    size = f'width="{LEFT + BARS + RIGHT}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        y = TOP + ROW * number
        end, least, most = (LEFT + scale * value for value in (bar.value, bar.least, bar.most))
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{LEFT}" y="{y + 3}" width="{end - LEFT:.1f}" height="{ROW - 6}" fill="{bar.colour}"/>',
            f'<path d="M{least:.1f} {y + ROW / 2} H{most:.1f}" stroke="black"/>',
            f'<text x="{max(end, most) + 6:.1f}" y="{y + 14}">{bar.value:.4g}{escape(bar.note)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def name_of(result: Result) -> str:
    """The version of Python, and its arguments."""
    return " ".join([result["python"]["version"], *(word for word in result["python"]["arguments"] if word != "-X")])


def bars_of(figure: str, results: Sequence[Result]) -> Iterator[Bar]:
    """A bar for each program and result."""
    programs = dict.fromkeys(program for result in results for program in result["figures"].get(figure, {}))
    for program in programs:
        for result in results:
            if (row := result["figures"].get(figure, {}).get(program)) is None:
                continue
            note = f"  ({row['ratio']:.2f} × {row['floor']})" if row["ratio"] is not None else ""
            label = program if len(results) == 1 else f"{program}, {name_of(result)}"
            colour = COLOURS.get(program.partition("-")[0], OURS)
            yield Bar(label, row["median"], row["min"], row["max"], note, colour)


def imports_of(result: Result) -> list[Bar]:
    """A bar for each of the packages that take longest to import."""
    packages = list(result["imports_ms"]["packages"].items())[:PACKAGES]
    return [Bar(package, milliseconds, milliseconds, milliseconds) for package, milliseconds in packages]


def main(folder: Path, paths: Sequence[Path]) -> None:
    """Write all charts into `folder`."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items():
        if bars := list(bars_of(name, results)):
            (folder / f"{name}.svg").write_text(chart(f"{figure.meaning}, {figure.unit}", bars), encoding="utf-8")
    for result in results:
        title = f"imports of the sidecar until its first 200, ms (Python {name_of(result)})"
        text = chart(title, imports_of(result))
        (folder / f"imports-{name_of(result).replace(' ', '-')}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
