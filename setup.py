"""What pyproject.toml cannot say: two directories outside the package go into it when a wheel is built."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# sharp_mobile/shipped/__init__.py finds them, in a wheel and in a checkout.
SHIPPED = {"sharp_mobile.shipped.export": "export", "sharp_mobile.shipped.host_bench": "host_bench"}


class BuildAnew(build_py):
    """Leave no file of an earlier build in the wheel, which build/lib would bring along."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib) / "sharp_mobile", ignore_errors=True)
        super().run()


setup(
    packages=[*find_packages(include=["sharp_mobile*"]), *SHIPPED],
    package_dir=SHIPPED,
    cmdclass={"build_py": BuildAnew},
)
