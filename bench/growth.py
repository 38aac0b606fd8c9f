"""Draws what `make bench-growth` measured, medians of the rounds, as one SVG.

Usage: growth.py CSV SVG
"""

import csv
import sys
from collections import defaultdict
from statistics import median

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 8}
from matplotlib import pyplot  # noqa: E402


def micros(row):
    return float(row["client_us"])


def per_byte(row):
    return float(row["client_us"]) * 1000 / float(row["bytes"])


def rate(row):
    return float(row["records_per_s"])


# Series, what grows, what is shown of it, whether both axes start at 0.
PANELS = [
    ("fields", "protected values of a 4 KB event", "CPU of a record (us)", micros, True),
    ("bytes", "bytes of an event", "CPU of an input byte (ns)", per_byte, False),
    ("partitions", "partitions", "CPU of a record (us)", micros, False),
    ("schemas", "schemas", "CPU of a record (us)", micros, False),
    ("lanes", "lanes, on two cores", "records/s", rate, True),
    ("instances", "instances, on two cores", "records/s", rate, True),
]


def main():
    source, target = sys.argv[1:]
    rounds = defaultdict(list)
    with open(source, newline="") as file:
        for row in csv.DictReader(file):
            rounds[row["series"], int(row["at"])].append(row)
    figure, axes = pyplot.subplots(2, 3, figsize=(9, 5))
    for axis, (series, grows, shown, figure_of, is_linear) in zip(axes.flat, PANELS, strict=True):
        points = sorted(at for name, at in rounds if name == series)
        values = [median(figure_of(row) for row in rounds[series, at]) for at in points]
        axis.plot(points, values, marker="o", color="#1f5fa8")
        axis.set_xlabel(grows)
        axis.set_ylabel(shown)
        axis.set_ylim(bottom=0, top=max(values) * 1.15)
        if is_linear:
            axis.set_xlim(left=0)
        else:
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None, "Creator": None})


main()
