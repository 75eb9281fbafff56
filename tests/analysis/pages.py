"""Reads a report as its script does: the blocks of a page as numbers."""

import base64
import gzip
import html
import json
import re

EXACT, COUNTS, TRACES = 0, 1, 2


class Page:
    """A report, as text and as what it holds."""

    def __init__(self, path):
        self.text = path.read_text()
        found = re.findall(r'<script type="text/plain" id="block-(\w+)">([^<]*)</script>', self.text)
        self.blocks = {name: gzip.decompress(base64.b64decode(block)) for name, block in found}
        self.data = json.loads(self.blocks["data"])

    @property
    def words(self):
        """What a reader sees of the page without its script and data."""
        body = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", self.text)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())

    def pairs(self, neuron):
        """The pairs of a neuron by the position of the stimulus; {} where it has no block."""
        block = self.blocks.get(f"n{neuron}")
        return {p["stim"]: p for p in decoded(block)} if block else {}


def decoded(block):
    numbers = iter(_numbers(block))

    def unfold(v):
        return -(v + 1) // 2 if v % 2 else v // 2

    pairs = [{} for _ in range(next(numbers))]
    stim = 0
    for p in pairs:
        stim += next(numbers)
        p["stim"] = stim
    for name in ("kind", "repeats", "n_gaps"):
        for p in pairs:
            p[name] = next(numbers)
    for p in pairs:
        p["gaps"] = [(next(numbers), next(numbers), next(numbers)) for _ in range(p["n_gaps"])]
    for p in pairs:
        p["windows"], last = [], [0, 0]
        for _ in range(p["repeats"] if p["kind"] == EXACT else 0):
            row = []
            for side in (0, 1):
                v = next(numbers)
                last[side] += unfold(v - 1) if v else 0
                row.append(last[side] if v else None)
            p["windows"].append(row)
    for p in pairs:
        p["lengths"] = [next(numbers) for _ in range(p["repeats"])]
    for p in pairs:
        p["rows"] = []
        for length in p["lengths"]:
            value, row = 0, []
            for i in range(length):
                step = next(numbers)
                value += unfold(step) if i == 0 or p["kind"] == TRACES else step
                row.append(value)
            p["rows"].append(row)
    for p in pairs:
        p["more"] = [[next(numbers) for _ in row] for row in p["rows"]] if p["kind"] == COUNTS else None
    assert next(numbers, None) is None
    return pairs


def _numbers(block):
    value = shift = 0
    for byte in block:
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            yield value
            value = shift = 0
