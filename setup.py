"""What pyproject.toml cannot say: two directories outside the package go into it when a wheel is built."""

from setuptools import find_packages, setup

# sharp_mobile/shipped/__init__.py finds them, in a wheel and in a checkout.
SHIPPED = {"sharp_mobile.shipped.export": "export", "sharp_mobile.shipped.host_bench": "host_bench"}

setup(packages=[*find_packages(include=["sharp_mobile*"]), *SHIPPED], package_dir=SHIPPED)
