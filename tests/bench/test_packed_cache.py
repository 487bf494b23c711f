"""Packed weights on disk are used only while they are what a launch left: whatever happens to them, answers stay."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.packed_cache import PackedCache, cache_key, cpu_class, cpu_name
from sharp_mobile.bench.runner import Task, launch
from sharp_mobile.errors import SharpError

PACKED = bytes(range(256)) * 16


def pack(path: Path) -> None:
    path.write_bytes(PACKED)


@pytest.fixture
def cache(tmp_path: Path) -> PackedCache:
    """A cache that a launch has made."""
    cache = PackedCache("ab" * 32, tmp_path)
    cache.make(pack)
    return cache


def seal_of(cache: PackedCache) -> Path:
    return cache.path.with_suffix(".json")


def test_what_a_launch_left_is_believed(cache: PackedCache) -> None:
    assert cache.believed()
    assert PackedCache("ab" * 32, cache.path.parent).believed()


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: cache.path.write_bytes(PACKED[:-1]),
        lambda cache: cache.path.write_bytes(PACKED + b"\0"),
        lambda cache: cache.path.write_bytes(b"\1" + PACKED[1:]),
        lambda cache: cache.path.write_bytes(b""),
        lambda cache: cache.path.unlink(),
        lambda cache: seal_of(cache).unlink(),
        lambda cache: seal_of(cache).write_text("{"),
        lambda cache: seal_of(cache).write_text("[" * 100_000),
        lambda cache: seal_of(cache).write_bytes(b"\xff\xfe"),
        lambda cache: seal_of(cache).write_text(seal_of(cache).read_text().replace('"bytes": 4096', '"bytes": 4097')),
        # The first half of the key is the file's name; the whole one is sealed.
        lambda cache: seal_of(cache).write_text(seal_of(cache).read_text().replace("ab" * 32, "ab" * 8 + "cd" * 24)),
    ],
)
def test_anything_else_is_deleted(damage: Callable[[PackedCache], None], cache: PackedCache) -> None:
    damage(cache)
    assert not cache.believed()
    assert not cache.path.exists()
    assert not seal_of(cache).exists()


@pytest.mark.parametrize("name", ["path", "_seal"])
def test_a_directory_in_the_place_of_a_file_is_told(name: str, cache: PackedCache) -> None:
    path = getattr(cache, name)
    path.unlink()
    path.mkdir()
    with pytest.raises(SharpError, match=r"cannot be deleted: .*; delete it yourself"):
        cache.believed()


def test_a_launch_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = PackedCache("ab" * 32, tmp_path)

    def fails(path: Path) -> None:
        pack(path)
        raise SharpError("no")

    with pytest.raises(SharpError):
        cache.make(fails)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SharpError, match="XNNPACK wrote no packed weights there"):
        cache.make(lambda path: None)


def test_a_file_that_a_launch_changes_is_made_anew_and_the_launch_repeated(cache: PackedCache) -> None:
    launches: list[bytes] = []

    def appends_once(path: Path) -> int:
        launches.append(path.read_bytes())
        if len(launches) == 1:
            path.write_bytes(PACKED + PACKED)
        return len(launches)

    assert cache.used_by(appends_once, make=pack) == 2
    assert launches == [PACKED, PACKED]
    assert cache.path.read_bytes() == PACKED

    def appends(path: Path) -> None:
        path.write_bytes(path.read_bytes() + PACKED)

    with pytest.raises(SharpError, match="XNNPACK refuses its own packed weights; run with --no-weight-cache"):
        cache.used_by(appends, make=pack)
    assert not cache.path.exists()


def test_two_benchmarks_do_not_share_a_file(cache: PackedCache) -> None:
    with cache.in_use():
        other = PackedCache(cache.key, cache.path.parent)
        with pytest.raises(SharpError, match="another benchmark is using it"), other.in_use():
            pass
    with other.in_use():
        assert other.believed()


def test_a_key_is_of_a_program_a_runtime_and_a_cpu(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    texts = {
        "x86": "processor\t: 0\nmodel name\t: Some CPU\nMHz\t: 100\nflags\t: avx2 avx512f\n\n",
        "other flags": "processor\t: 0\nmodel name\t: Some CPU\nMHz\t: 100\nflags\t: avx2\n\n",
        "arm": "processor\t: 0\nFeatures\t: asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n",
        "other part": "processor\t: 0\nFeatures\t: asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd44\n\n",
    }
    keys = {cache_key("a", "1.5.1", "cpu"), cache_key("b", "1.5.1", "cpu"), cache_key("a", "1.5.2", "cpu")}
    for text in texts.values():
        cpuinfo.write_text(text)
        keys.add(cache_key("a", "1.5.1", cpu_class(cpuinfo)))
    assert len(keys) == 3 + len(texts)
    cpuinfo.write_text(texts["x86"].replace("100", "200") * 2)  # another clock, another core
    assert cache_key("a", "1.5.1", cpu_class(cpuinfo)) in keys
    assert cpu_name(cpuinfo) == "Some CPU"


def damaged(content: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """The file cut short, with a few bits flipped, with noise at its end or over a page, or another model's."""
    kind = generator.choice(["cut", "flip", "append", "page", "other"])
    if kind == "cut":
        return content[: generator.randrange(len(content))]
    if kind == "other":
        return generator.choice(others)
    changed = bytearray(content)
    if kind == "append":
        return content + generator.randbytes(generator.randrange(1, 5000))
    if kind == "page":
        start = generator.randrange(len(content) - 4096)
        changed[start : start + 4096] = generator.randbytes(4096)
    else:
        for _ in range(generator.randrange(1, 4)):
            changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    return bytes(changed)


@pytest.mark.slow
def test_damage_never_changes_an_answer(runner: Path, shared: Export, unshared: Export, tmp_path: Path) -> None:
    logits, generator = tmp_path / "logits", random.Random(0)

    def answer(path: Path | None) -> bytes:
        launch(runner, shared.pte, Task(forwards=0, warmups=0, prompt=shared.prompt, packed_cache=path, logits=logits))
        return logits.read_bytes()

    expected = answer(None)
    other = tmp_path / "other"
    launch(runner, unshared.pte, Task(packed_cache=other))
    cache = PackedCache(cache_key(shared.identity.sha256, "1.5.1", "cpu"), tmp_path / "packed")
    with cache.in_use():
        assert cache.used_by(answer, make=answer) == expected
        whole = cache.path.read_bytes()
        for _ in range(30):
            content = damaged(whole, [other.read_bytes()], generator)
            cache.path.write_bytes(content)
            assert cache.used_by(answer, make=answer) == expected
            assert cache.path.stat().st_size == len(whole)


@pytest.mark.slow
def test_damage_that_is_believed_would_change_answers(runner: Path, shared: Export, tmp_path: Path) -> None:
    """Why the check is there: XNNPACK takes a file with other bytes for what it packed."""
    packed, logits = tmp_path / "packed", tmp_path / "logits"
    task = Task(forwards=0, warmups=0, prompt=shared.prompt, packed_cache=packed, logits=logits)
    launch(runner, shared.pte, task)
    expected, content = logits.read_bytes(), bytearray(packed.read_bytes())
    half = len(content) // 2
    content[half : half + 100_000] = bytes(100_000)
    packed.write_bytes(content)
    launch(runner, shared.pte, task)
    assert logits.read_bytes() != expected


@pytest.mark.slow
def test_a_shared_weight_is_packed_once(runner: Path, shared: Export, unshared: Export, tmp_path: Path) -> None:
    """With the weight cache on, the packed weights are smaller by an MLP, less the recovery parameters."""
    packed = {}
    for export in (shared, unshared):
        path = tmp_path / export.directory.name
        launch(runner, export.pte, Task(packed_cache=path))
        packed[export.directory.name] = path.stat().st_size
    saved = shared.identity.unshared_bytes - shared.identity.file_bytes
    assert saved > 100_000
    # Packed codes take what stored ones take, and each entry is filled up to a page.
    assert abs(packed["unshared"] - packed["shared"] - saved) < 20 * 4096
