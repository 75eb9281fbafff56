"""Structs in MATLAB files, however deep they are wrapped: cells of one element around structs, struct arrays, cells.

`load` gives scipy's arrays; the other functions take a value out of them and raise `ValueError` with what they expected
and what they found, for the caller to add the file to.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadWarning

from strfcube.errors import RawDataError
from strfcube.raw_files import bounded, reading, see_readable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def load(path: Path, *names: str) -> dict[str, Any]:
    """Variables of a MATLAB 5 to 7 file; the others are passed over, not read.

    Parameters
    ----------
    path : Path
        The file.
    *names : str
        Variables; those that the file lacks are not in the result.

    Raises
    ------
    RawDataError
        If the file is absent, of version 7.3, cut short or no MATLAB file.
    """
    try:
        reading(path)
        with warnings.catch_warnings(), bounded(path.stat().st_size):
            warnings.simplefilter("error", MatReadWarning)  # scipy only warns of a variable that it cannot read
            # mat_dtype: a double that holds whole numbers is a double, not the integers in which MATLAB packs it.
            found = loadmat(str(path), variable_names=names, appendmat=False, mat_dtype=True)  # str: FileNotFoundError
    except FileNotFoundError:
        raise RawDataError("expected this file, but there is none; unpack the archive again", path) from None
    except NotImplementedError:
        message = "expected a MATLAB file of version 5 to 7, found version 7.3 (HDF5); save it again with -v7"
        raise RawDataError(message, path) from None
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        see_readable(error, path)
        what = " ".join(str(error).split()) or type(error).__name__
        message = f"expected a whole MATLAB file, but it is cut short or damaged ({what}); unpack the archive again"
        raise RawDataError(message, path) from error
    return {name: found[name] for name in names if name in found}


def elements(value: Any) -> list[Any]:
    """Elements of a struct array or a cell array."""
    value = _peel(value)
    if isinstance(value, np.void):
        return [value]
    if isinstance(value, np.ndarray) and (value.dtype.names or value.dtype == object):
        return [_peel(element) for element in value.ravel(order="F")]
    if isinstance(value, np.ndarray) and not value.size:
        return []
    raise ValueError(f"expected a struct or a cell array, found {_describe(value)}")


def structs(value: Any) -> Any:
    """A struct array, out of the cells that wrap it or its elements; anything else as it is."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size:
        inner = [structs(element) for element in value.ravel(order="F")]
        if any(getattr(each, "dtype", None) != inner[0].dtype or not inner[0].dtype.names for each in inner):
            return value
        value = np.concatenate([np.ravel(each) for each in inner])
    return value


def field(value: Any, name: str) -> Any:
    """One field of a struct."""
    struct = _peel(value)
    if not isinstance(struct, np.void) or name not in (struct.dtype.names or ()):
        raise ValueError(f"expected a struct with the field '{name}', found {_describe(struct)}")
    return struct[name]


def has(value: Any, name: str) -> bool:
    """Whether a value is a struct with that field."""
    return name in (getattr(_peel(value), "dtype", np.dtype(float)).names or ())


def text(value: Any) -> str:
    """Read a character array; empty where it has no character."""
    value = _peel(value)
    if isinstance(value, np.ndarray) and (value.dtype.kind == "U" or not value.size):
        return " ".join(value.ravel().tolist())
    raise ValueError(f"expected text, found {_describe(value)}")


def number(value: Any) -> float:
    """Read a scalar."""
    numbers = vector(value)
    if numbers.size != 1:
        raise ValueError(f"expected one number, found {_describe(numbers)}")
    return float(numbers[0])


def vector(value: Any) -> NDArray[Any]:
    """Read a row or a column of numbers [shape=(n,)], of its own dtype."""
    value = _peel(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise ValueError(f"expected numbers, found {_describe(value)}")
    if value.size > max(value.shape, default=1):
        raise ValueError(f"expected one row or one column, found {_describe(value)}")
    return value.ravel(order="F")


def _peel(value: Any) -> Any:
    """Take out what is inside cells and struct arrays of one element."""
    while isinstance(value, np.ndarray) and value.size == 1 and (value.dtype.names or value.dtype == object):
        value = value.ravel()[0]
    return value


def _describe(value: Any) -> str:
    names = getattr(getattr(value, "dtype", None), "names", None)
    if names:
        return f"the fields {', '.join(names)}"
    if isinstance(value, np.ndarray):
        return f"{'text' if value.dtype.kind == 'U' else value.dtype} of shape {value.shape}"
    return type(value).__name__
