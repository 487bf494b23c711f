"""The installed ExecuTorch: where it is, and its version. It is found, not imported: importing it imports PyTorch."""

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


def same_runtime(version: str | None, other: str | None) -> bool:
    """Whether two versions of ExecuTorch read the same programs and packed weights: major and minor are equal.

    The app for iPhones has 1.5.0, the newest Swift package, while the wheel is 1.5.1; both have the same XNNPACK.
    """
    if version is None or other is None:
        return False
    return version.split(".")[:2] == other.split(".")[:2]
