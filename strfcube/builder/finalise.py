"""The end of a build: labels, coverage, findings and attributes, the digest, and the consolidated metadata."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from strfcube.cube import codecs, digest
from strfcube.cube.metadata import sealed
from strfcube.cube.schema import FORMAT_VERSION, MEANINGS
from strfcube.cube.shard_writer import put
from strfcube.cube.store import attributes_digest, no_consolidation_warning
from strfcube.grid import bin_starts
from strfcube.records import STATED, Finding, Neuron, Stimulus, Survey
from strfcube.transport.connect import connect

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from strfcube.builder.ledger import Files
    from strfcube.builder.plan import Plan
    from strfcube.builder.recipe import Recipe
    from strfcube.builder.request import Request
    from strfcube.builder.write import Job, Written
    from strfcube.cube.shard_writer import Layout


@dataclass(frozen=True)
class Built:
    """What the two stages left behind.

    Attributes
    ----------
    draft : str
        Folder of metadata and labels.
    survey, plan, job
        What it was made from.
    written : tuple of Written
        Results of all tasks of stage two.
    findings : tuple of Finding
        All of them, in the order in which they came up.
    frequencies : ndarray [shape=(frequency,)]
        Hz.
    """

    draft: str
    survey: Survey
    plan: Plan
    job: Job
    written: tuple[Written, ...]
    findings: tuple[Finding, ...]
    frequencies: NDArray[Any]

    @property
    def files(self) -> Files:
        """All shards."""
        return {key: state for w in self.written for key, state in w.files.items()}


def response_attrs(plan: Plan, survey: Survey) -> dict[str, Any]:
    """Attributes of the response: what a value is, and in which unit."""
    return response_words({str(survey.neurons[i].meta["units"]) for i in plan.neurons})


def response_words(units: Collection[str]) -> dict[str, Any]:
    """Attributes of responses in these units."""
    names = {"count": "spikes per bin", "mV": "membrane potential, mean over the bin"}
    one = next(iter(units)) if len(units) == 1 else "mixed"
    return {"long_name": names.get(one, "spikes per bin, or membrane potential; see 'units' on neuron"), "units": one}


def finalise(built: Built, request: Request) -> tuple[Finding, ...]:
    """Write everything small, and the root metadata last; gives all findings.

    Parameters
    ----------
    built : Built
        The finished stages.
    request : Request
        What they were asked for.
    """
    import zarr

    findings = built.findings + _against(request.figures, built.plan)
    digests: dict[str, str] = {}
    layouts: list[Layout] = [built.plan.response, built.job.stimulus, *built.job.trials.values(), built.job.spike_time]
    groups: dict[str, xr.Dataset] = {
        "": root_dataset(built.survey, built.plan, built.frequencies, request.recipe),
        "trials": files_dataset(built.plan.files),
        "findings": findings_dataset(findings),
    }
    for written in built.written:
        if written.samples is not None:
            layouts.append(written.samples)
            groups["audio"] = _audio(written.audio)
    with no_consolidation_warning():
        for name, ds in groups.items():
            write_group(ds, built.draft, name, digests)
        for layout in layouts:
            leaves = [leaf for w in built.written for leaf in w.leaves.get(layout.name, ())]
            digests[layout.name] = digest.of_leaves(layout.name, layout.dtype, layout.shape, layout.chunk, leaves)
        digests["attributes"] = attributes_digest(built.draft)
        root = zarr.open_group(built.draft, mode="a")
        root.attrs.update(_attrs(request, digests) | dict(request.attrs))
        zarr.consolidate_metadata(built.draft)
    put(built.draft, "zarr.json", sealed(connect(built.draft, ""), ends_of(built.files)))
    return findings


def ends_of(files: Files) -> dict[str, str]:
    """Last bytes of those shards that do not lie in the draft, as hexadecimal digits."""
    return {key: state[3] for key, state in files.items() if len(state) > 3}


def write_group(ds: xr.Dataset, store: str, name: str, digests: dict[str, str]) -> None:
    """Write one group of variables that fit in memory, a chunk with a checksum each, and enter their digests.

    Parameters
    ----------
    ds : xarray.Dataset
        In memory.
    store : str
        Path of the draft.
    name : str
        The group; "" is the root.
    digests : dict
        By path within the store.
    """
    import zarr

    group = zarr.open_group(store, path=name, mode="a")
    encoding: dict[str, dict[str, Any]] = {}
    for v in map(str, ds.variables):
        if v in group:  # left by an attempt that ended here
            del group[v]
        ds[v].encoding.clear()
        chunk = tuple(max(1, n) for n in ds[v].shape)
        encoding[v] = {"chunks": chunk, "compressors": codecs.of_small_arrays()}
        if ds[v].dtype.kind == "f":
            encoding[v]["_FillValue"] = None
        digests[f"{name}/{v}".lstrip("/")] = digest.of_values(v, ds[v].values)
    # A file that is not there is lost, also where it held nothing but zeros
    ds.to_zarr(store, group=name or None, mode="a", consolidated=False, encoding=encoding, write_empty_chunks=True)


def _attrs(request: Request, digests: Mapping[str, str]) -> dict[str, Any]:
    from strfcube.version import __version__

    recipe, entry = request.recipe, request.entry
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "format_version": FORMAT_VERSION,
        "strfcube_version": __version__,
        "title": entry.title if entry else recipe.dataset,
        "dataset": recipe.dataset,
        "dt_ms": recipe.dt_ms,
        "recipe": recipe.to_json(),
        "digest": digest.combine(digests),
        "digests": json.dumps(dict(sorted(digests.items()))),
        "sources": json.dumps([f.url for f in entry.files] if entry else []),
        "fingerprint": request.fingerprint,
        "licence": entry.licence if entry else "",
        "citation": "\n".join(entry.citation) if entry else "",
        "doi": entry.doi if entry else "",
        "history": f"{now} strfcube {__version__}: built from raw files",
    }


def _against(figures: Mapping[str, int], plan: Plan) -> tuple[Finding, ...]:
    """What a complete build must show, held against what it shows."""
    shown = {"stim": len(plan.stims), "neuron": len(plan.neurons), "pairs": int((plan.n_repeats > 0).sum())}
    wrong = [f"{shown[k]} {k} instead of {v}" for k, v in figures.items() if k in shown and shown[k] != v]
    if not wrong:
        return ()
    what = f"the complete data set has other figures: {', '.join(wrong)}"
    return (
        Finding("warning", "", what, "the raw folder is a part or another version of it; the cube has what is there"),
    )


def root_dataset(survey: Survey, plan: Plan, frequencies: NDArray[Any], recipe: Recipe) -> xr.Dataset:
    """The labels, and the variables that readers want in memory."""
    stimuli = [survey.stimuli[i] for i in plan.stims]
    neurons = [survey.neurons[i] for i in plan.neurons]
    n_time, n_repeat = plan.response.shape[3], plan.response.shape[2]
    duration = np.array([s.length.seconds for s in stimuli], np.float64)
    ds = xr.Dataset(
        {
            "n_repeats": (("stim", "neuron"), plan.n_repeats, {"long_name": "trials in the cube", "units": "1"}),
            "n_rejected": (("stim", "neuron"), plan.n_rejected, {"long_name": "trials rejected", "units": "1"}),
            "n_bins": ("stim", plan.n_bins.astype(np.int32), {"long_name": "valid bins", "units": "1"}),
            "duration": ("stim", duration, {"long_name": "true length of the stimulus", "units": "s"}),
        },
        {
            "stim": ("stim", text([s.id for s in stimuli])),
            "neuron": ("neuron", text([n.id for n in neurons])),
            "repeat": ("repeat", np.arange(n_repeat, dtype=np.int32)),
            "time": ("time", bin_starts(n_time, recipe.dt_ns),
                     {"long_name": "left edge of the bin, from stimulus onset", "units": "s"}),
            "frequency": ("frequency", np.asarray(frequencies, np.float64),
                          {"long_name": "centre frequency", "units": "Hz"}),
        },
    )  # fmt: skip
    coords = {name: ("stim", values) for name, values in _stim_coords(stimuli).items()}
    coords |= {name: ("neuron", _column([n.meta.get(name) for n in neurons])) for name in _keys(neurons)}
    ds = ds.assign_coords(coords)
    for name, meaning in MEANINGS.items():
        if name in ds.coords:
            ds[name].attrs = dict(meaning)
    return ds


def _stim_coords(stimuli: Sequence[Stimulus]) -> dict[str, NDArray[Any]]:
    stated = [s.stated for s in stimuli]
    coords = {name: _column([s.meta.get(name) for s in stimuli]) for name in _keys(stimuli)}
    columns = {name: [each[name] for each in stated] for name in STATED}
    dtypes = dict.fromkeys(STATED, np.float64) | {"n_samples": np.int64}
    return coords | {
        name: text(column) if name == "duration_source" else np.array(column, dtypes[name])
        for name, column in columns.items()
    }


def _keys(items: Sequence[Stimulus] | Sequence[Neuron]) -> list[str]:
    return list(dict.fromkeys(key for item in items for key in item.meta))


def _column(values: Sequence[Any]) -> NDArray[Any]:
    """One coordinate: text with "" where it is missing, numbers with NaN, or flags."""
    there = [v for v in values if v is not None]
    if there and all(isinstance(v, bool | np.bool_) for v in there) and len(there) == len(values):
        return np.array(values, bool)
    if there and all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in there):
        if len(there) == len(values):
            return np.array(values, np.int64)
        return np.array([math.nan if v is None else v for v in values], np.float64)
    if there and all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in there):
        return np.array([math.nan if v is None else v for v in values], np.float64)
    return text(["" if v is None else str(v) for v in values])


def text(values: Sequence[str] | NDArray[Any]) -> NDArray[Any]:
    """Text as a cube holds it, of the shape that it has."""
    # Object arrays become Zarr's variable-length strings; fixed-width ones have no settled specification.
    # Of an empty object array nobody can tell that it is text, so that one says it.
    given = np.asarray(values, object)
    out = np.empty(given.shape, object if given.size else np.dtypes.StringDType())
    # Names of files are bytes; where they are no text, they are shown as Python shows such bytes.
    shown = [str(v).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for v in given.ravel()]
    out.reshape(-1)[:] = shown
    return out


def files_dataset(files: Sequence[str]) -> xr.Dataset:
    """What is not a column of the group ``trials``: the raw files."""
    attrs = {"description": "every trial, in neuron, stimulus, repeat order, and every spike (CF contiguous ragged)"}
    return xr.Dataset({"file": ("file", text(files), {"long_name": "raw file, relative to the raw folder"})},
                      attrs=attrs)  # fmt: skip


def _audio(results: Mapping[str, Any]) -> xr.Dataset:
    return xr.Dataset(
        {
            "row_size": ("stim", np.array(results["row_size"], np.int64),
                         {"long_name": "samples of the stimulus", "sample_dimension": "sample"}),
            "rate": ("stim", np.array(results["rate"], np.float64), {"long_name": "sampling rate", "units": "Hz"}),
        },
        attrs={"description": "the waveforms, ragged, at their own rate; the first sample is at sound_onset"},
    )  # fmt: skip


def findings_dataset(findings: Sequence[Finding]) -> xr.Dataset:
    """The findings as a table."""
    columns = {name: text([getattr(f, name) for f in findings]) for name in ("severity", "file", "what", "consequence")}
    columns["line"] = np.array([f.line for f in findings], np.int64)
    attrs = {"description": "what the pipeline found wrong in the raw files, and what follows from it"}
    return xr.Dataset({name: ("finding", values) for name, values in columns.items()}, attrs=attrs)
