"""A name that a file gives stays inside its directory."""

from pathlib import Path

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.files.paths import file_part, inside, is_regular_file, reading


@pytest.mark.parametrize("name", ["model.safetensors", "packed/pixel-6.cache", "a b.bin", "..hidden"])
def test_a_plain_name_is_taken(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name, "manifest.json") == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "", ".", "a\\..\\x", "a\nb", "a\x1b[31m", "a\0b", "packed/..", "x" * 256],
)
def test_a_name_that_leaves_the_directory_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"^manifest.json: names the file "):
        inside(tmp_path, name, "manifest.json")


def test_a_link_that_leaves_the_directory_is_refused(tmp_path: Path) -> None:
    export, elsewhere = tmp_path / "export", tmp_path / "elsewhere"
    export.mkdir()
    elsewhere.mkdir()
    (export / "packed").symlink_to(elsewhere)
    (export / "loop").symlink_to(export / "loop")
    for name in ("packed/a.cache", "loop"):
        with pytest.raises(SharpError, match="which is not inside"):
            inside(export, name, "manifest.json")
    assert inside(export, "packed/a.cache", "index.json", links_out=True) == export / "packed/a.cache"


def test_reading_names_what_is_not_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with reading(tmp_path / "link") as file:
        assert file.read() == b"content"
    assert not is_regular_file(tmp_path / "nothing")
    assert not is_regular_file(tmp_path / "file" / "below")
    for name, message in ((".", "is a directory"), ("nothing", "no such file")):
        with pytest.raises(SharpError, match=message), reading(tmp_path / name):
            pass


def test_an_error_of_the_disk_while_reading_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SharpError, match="file: cannot be read: Input/output error"), reading(tmp_path / "file"):
        raise OSError(5, "Input/output error")


def test_a_text_is_part_of_a_file_name() -> None:
    texts = ["Pixel 8 Pro", "../../x", "a/b", "小米", "", "x" * 300, "-a-" * 40]
    parts = [file_part(text, "phone") for text in texts]
    assert parts[:5] == ["pixel-8-pro", "x", "a-b", "phone", "phone"]
    assert all(0 < len(part) <= 60 and not part.startswith("-") and not part.endswith("-") for part in parts)
