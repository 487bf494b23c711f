"""Package data: recipes, shapes, budgets, C++ sources and phone profiles.

                    checkout, installed as editable or not    wheel (see setup.py)
    export          export/                                   sharp_mobile/shipped/export/
    host_bench      host_bench/                               sharp_mobile/shipped/host_bench/

In a checkout they are at the top level, where readers and make look for them.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from sharp_mobile.errors import SharpError


def shipped(name: Literal["export", "host_bench"]) -> Path:
    """The directory of that name in the wheel, otherwise in the checkout.

    Raises:
        SharpError: neither exists.
    """
    # Return a path, because compilers read these files. Wheels are always unpacked, so the path exists.
    package = Path(str(files("sharp_mobile")))
    for directory in (package / "shipped" / name, package.parent / name):
        if directory.is_dir():
            return directory
    raise SharpError(f"{package}: its files in {name}/ are missing; install sharp-mobile again")
