"""Where the installed ExecuTorch lies. It is found, not imported: importing it imports PyTorch."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sharp_mobile.errors import SharpError


def executorch_package() -> tuple[Path, str]:
    """Where the installed executorch is, and its version.

    Raises:
        SharpError: it is not installed, or without its C++ libraries.
    """
    try:
        spec, installed = find_spec("executorch"), version("executorch")
    except PackageNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SharpError("executorch is not installed; install sharp-mobile again with its dependencies")
    return Path(next(iter(spec.submodule_search_locations))), installed
