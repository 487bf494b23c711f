"""Files other than Python that travel with the package: recipes, shapes, budgets, C++ sources and phone profiles.

                    checkout, installed as editable or not    wheel (see setup.py)
    export          export/                                   sharp_mobile/shipped/export/
    host_bench      host_bench/                               sharp_mobile/shipped/host_bench/

In a checkout they stay at the top, where readers and make look for them.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from sharp_mobile.errors import SharpError


def shipped(name: Literal["export", "host_bench"]) -> Path:
    """The directory of that name: the wheel's, else the checkout's.

    Raises:
        SharpError: neither is there.
    """
    # A path, because compilers read the files, too, and a wheel is unpacked when it is installed.
    package = Path(str(files("sharp_mobile")))
    for directory in (package / "shipped" / name, package.parent / name):
        if directory.is_dir():
            return directory
    raise SharpError(f"{package}: its files in {name}/ are missing; install sharp-mobile again")
