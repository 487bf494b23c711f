"""`python -m sharp_mobile.cli`."""

from sharp_mobile.cli.main import main

main()
