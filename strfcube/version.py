"""The version that is installed, as a cube's attributes and messages state it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("strfcube")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
