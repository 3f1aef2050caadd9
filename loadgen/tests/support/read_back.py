"""Reads latency.hlog and the .hgrm tables of a directory with the Python implementation of HdrHistogram.

The interval log, summed up, must give the table. Prints what it found as one JSON object.
"""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

directory = sys.argv[1]

def table(path):
    """Value in nanoseconds, percentile, and count of each row."""
    rows = [line.split() for line in open(path) if line.strip() and not line.startswith("#") and "Value" not in line]
    return [(round(float(row[0]) * 1e6), float(row[1]), int(row[2])) for row in rows]


def counts_up_to(histogram):
    """How many entries are at most as large, for each recorded value."""
    steps = [(step.value_iterated_to, step.count_added_in_this_iter_step) for step in histogram.get_recorded_iterator()]
    total = 0
    counts = {}
    for value, count in steps:
        total += count
        counts[histogram.get_highest_equivalent_value(value)] = total
    return counts


def bracket(histogram, percentile):
    """The values one entry before and one entry behind a percentile: implementations round differently."""
    count = histogram.get_total_count()
    at = percentile / 100 * count
    around = [max(at - 1, 0) / count * 100, min(at + 1, count) / count * 100]
    return [histogram.get_value_at_percentile(percent) / 1e6 for percent in around]


result = {}
for clock in ("send", "visible"):
    reader = HistogramLogReader(directory + "/latency.hlog", HdrHistogram(1, 3_600_000_000_000, 3))
    total = HdrHistogram(1, 3_600_000_000_000, 3)
    intervals = 0
    while True:
        interval = reader.get_next_interval_histogram()
        if interval is None:
            break
        if interval.get_tag() == clock:
            intervals += 1
            total.add(interval)
    rows = table(directory + "/" + clock + ".hgrm")
    counts = counts_up_to(total)
    wrong = [row for row in rows if counts.get(row[0]) != row[2] or row[2] < row[1] * total.get_total_count() - 1]
    result[clock] = {
        "intervals": intervals,
        "count": total.get_total_count(),
        "p50": bracket(total, 50.0),
        "p99": bracket(total, 99.0),
        "p99.9": bracket(total, 99.9),
        "max": bracket(total, 100.0),
        "rows": len(rows),
        "wrong_rows": wrong,
    }
print(json.dumps(result))
