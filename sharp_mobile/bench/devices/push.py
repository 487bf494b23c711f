"""Push exports to a phone over a connection that may break at any byte.

    model.pte                       the complete file, checked by its SHA-256 on the phone
    model.pte.0123456789abcdef.part the received part of the file with this SHA-256; a push resumes at its end
    manifest.json                   is sent last: a folder without it is not an export yet

A file with the same SHA-256 on the phone is not sent again. Blocks are written at their offset, and a push resumes at
the interrupted block, so a block that arrives late or twice is still correct.
"""

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sharp_mobile.bench.devices.device import AttachedPhone, Patience, patiently
from sharp_mobile.bench.exports import Export, packed_files, tokenizer_files
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.files.paths import is_plain
from sharp_mobile.verify.manifest import MANIFEST_JSON, MODEL_PTE, PACKED

# Phones write at multiples of a block, and confirm every chunk.
BLOCK = 1 << 16
CHUNK = 1 << 22


@dataclass(frozen=True)
class Sending:
    """A local file and its path on the phone."""

    source: Path
    target: str
    bytes: int
    sha256: str

    @property
    def part(self) -> str:
        """The file's temporary name during the transfer."""
        return f"{self.target}.{self.sha256[:16]}.part"


def sending(source: Path, target: str) -> Sending:
    """A `Sending` of a file."""
    return Sending(source, target, source.stat().st_size, sha256_of(source))


def push(phone: AttachedPhone, exports: Sequence[Export], patience: Patience) -> None:
    """Push exports to the phone, each to a folder with its directory's name.

    Raises:
        SharpError: the storage is full, a file cannot be written, or the phone does not come back.
    """
    folders = {export.directory.resolve().name: _files(phone, export) for export in exports}
    files = [file for folder in folders.values() for file in folder]
    for name, folder in folders.items():
        patiently(phone, partial(_make_folder, phone, f"{phone.exports}/{name}", folder), patience)
    missing = patiently(phone, lambda: [file for file in files if not _is_there(phone, file)], patience)
    patiently(phone, lambda: _check_room(phone, missing), patience)
    for file in missing:
        push_file(phone, file, patience)


def push_file(phone: AttachedPhone, file: Sending, patience: Patience) -> None:
    """Push a file to the phone; an interrupted push is resumed.

    Raises:
        SharpError: as `push`; or the received file has another SHA-256.
    """
    progress = _Progress(file)
    patiently(phone, lambda: _send(phone, file, progress), patience)


def _files(phone: AttachedPhone, export: Export) -> list[Sending]:
    """The files of an export on the phone, with the manifest last."""
    folder = f"{phone.exports}/{export.directory.resolve().name}"
    files = {MODEL_PTE: export.pte, **tokenizer_files(export), **packed_files(export)}
    files[MANIFEST_JSON] = export.directory / MANIFEST_JSON
    return [sending(source, f"{folder}/{name}") for name, source in files.items()]


def _make_folder(phone: AttachedPhone, folder: str, files: Sequence[Sending]) -> None:
    """Create an export's folder, and delete leftovers of another export with this name."""
    directories = {posixpath.dirname(file.target) for file in files}
    belongs = {name for file in files for name in (file.target, file.part)} | {f"{folder}/{PACKED}"}
    for directory in sorted(directories):
        phone.make_directory(directory)
    for directory in (folder, f"{folder}/{PACKED}"):
        for name in phone.list(directory):
            # A phone lists a name with a line feed as two names, such as `..`; only plain names are deleted.
            if is_plain(name) and "/" not in name and f"{directory}/{name}" not in belongs:
                phone.delete(f"{directory}/{name}")


def _is_there(phone: AttachedPhone, file: Sending) -> bool:
    """Whether the phone has the file; a different one of its name is deleted, so that exports are never mixed."""
    size = phone.size(file.target)
    if size == file.bytes and phone.sha256(file.target) == file.sha256:
        return True
    if size is not None:
        phone.delete(file.target)
    return False


def _check_room(phone: AttachedPhone, files: Sequence[Sending]) -> None:
    needed = sum(max(0, file.bytes - (phone.size(file.part) or 0)) for file in files)
    free = phone.free_bytes()
    if needed > free:
        raise SharpError(
            f"{phone.name}: {needed:,} bytes must be sent, but only {free:,} are free on it; delete something there"
        )


def _send(phone: AttachedPhone, file: Sending, progress: Callable[[int], None]) -> None:
    if _is_there(phone, file):  # the connection broke after the last step
        return
    _check_room(phone, [file])
    arrived = phone.size(file.part) or 0
    if arrived > file.bytes:
        phone.delete(file.part)
        arrived = 0
    offset = arrived - arrived % BLOCK
    with file.source.open("rb") as source:
        source.seek(offset)
        while chunk := source.read(CHUNK):
            phone.write(file.part, offset, chunk)
            offset += len(chunk)
            progress(offset)
    if offset != file.bytes or phone.sha256(file.part) != file.sha256:
        phone.delete(file.part)
        raise SharpError(f"{file.source}: another file arrived on {phone.name}, and was deleted there; start again")
    phone.rename(file.part, file.target)


class _Progress:
    """Reports the progress of a file at every tenth."""

    def __init__(self, file: Sending) -> None:
        self._file, self._reported = file, 0

    def __call__(self, sent: int) -> None:
        tenth = 10 * sent // self._file.bytes
        if tenth > self._reported:
            self._reported = tenth
            say(f"{self._file.source}: {sent:,} of {self._file.bytes:,} bytes are on the phone")
