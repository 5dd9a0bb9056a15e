"""The file of aliases: several workers, damage, limits."""

import json
import multiprocessing
import threading
from pathlib import Path

import pytest

from proxy.aliases import MAX_ALIAS_BYTES, MAX_ALIASES, Alias, AliasFileDamaged, AliasStore
from proxy.errors import OllamaError


def alias(name: str = "mine:latest", *, system: str = "") -> Alias:
    return Alias(name=name, base="llama3:latest", modified_ns=1, system=system, parameters={"stop": ["a"], "top_k": 3})


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_put_is_there_and_what_is_removed_is_not(tmp_path: Path, is_kept: bool) -> None:
    store = AliasStore(tmp_path / "deep" / "aliases.json" if is_kept else None)
    assert store.all() == {}
    store.put("k", alias())
    assert store.all() == {"k": alias()}
    assert store.remove("k")
    assert not store.remove("k")
    assert store.all() == {}


def test_another_worker_sees_a_change_at_once(tmp_path: Path) -> None:
    one, other = AliasStore(tmp_path / "a.json"), AliasStore(tmp_path / "a.json")
    one.put("k", alias())
    seen = other.version
    assert other.all() == {"k": alias()}
    assert other.version > seen
    other.put("l", alias("other:latest"))
    assert set(one.all()) == {"k", "l"}
    one.remove("k")
    assert set(other.all()) == {"l"}


def test_nothing_read_anew_means_the_same_version(tmp_path: Path) -> None:
    store = AliasStore(tmp_path / "a.json")
    store.put("k", alias())
    version = store.version
    for _ in range(3):
        store.all()
    assert store.version == version


def test_a_replaced_alias_keeps_the_spelling_of_its_name(tmp_path: Path) -> None:
    store = AliasStore(tmp_path / "a.json")
    store.put("k", alias("MyModel:latest"))
    store.put("k", alias("mymodel:latest", system="new"))
    assert store.all()["k"].name == "MyModel:latest"
    assert store.all()["k"].system == "new"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"format":1}',
        b'{"format":2,"aliases":{}}',
        b'{"format":1,"aliases":{"k":{"name":1}}}',
        b"\xff\xfe",
        b'{"format":1,"aliases":' + b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_told_and_never_written_over(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(damage)
    store = AliasStore(path)
    assert store.all() == {}
    with pytest.raises(AliasFileDamaged) as caught:
        store.put("k", alias())
    assert str(tmp_path) not in caught.value.text
    assert path.read_bytes() == damage


def test_the_last_good_aliases_outlive_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store = AliasStore(path)
    store.put("k", alias())
    path.write_bytes(b"{")
    assert set(store.all()) == {"k"}
    path.unlink()
    assert store.all() == {}


def test_no_key_becomes_a_file(tmp_path: Path) -> None:
    store = AliasStore(tmp_path / "a.json")
    store.put("../../evil", alias("../../evil"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.lock"]
    assert list(tmp_path.parent.glob("evil*")) == []


def test_an_alias_has_a_size_it_may_not_pass(tmp_path: Path) -> None:
    store = AliasStore(tmp_path / "a.json")
    with pytest.raises(OllamaError) as caught:
        store.put("k", alias(system="x" * MAX_ALIAS_BYTES))
    assert caught.value.status == 400
    assert store.all() == {}


def test_there_is_a_number_of_aliases_that_is_not_passed() -> None:
    store = AliasStore(None)
    for number in range(MAX_ALIASES):
        store.put(str(number), alias())
    store.put("0", alias(system="replacing is no addition"))
    with pytest.raises(OllamaError):
        store.put("one more", alias())
    assert len(store.all()) == MAX_ALIASES


def test_a_folder_that_cannot_be_written_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = AliasStore(tmp_path / "file" / "a.json")
    with pytest.raises(OllamaError) as caught:
        store.put("k", alias())
    assert caught.value.status == 500
    assert str(tmp_path) not in caught.value.text


def test_the_file_can_be_read_by_a_person(tmp_path: Path) -> None:
    store = AliasStore(tmp_path / "a.json")
    store.put("k", alias(system="Be brief."))
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["aliases"]["k"]["system"] == "Be brief."


def _put_many(path: Path, first: int) -> None:
    store = AliasStore(path)
    for number in range(first, first + 10):
        store.put(str(number), alias(f"m{number}:latest"))


def test_processes_and_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    spawned = multiprocessing.get_context("spawn").Process(target=_put_many, args=(path, 0))
    threads = [threading.Thread(target=_put_many, args=(path, first)) for first in (10, 20)]
    spawned.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spawned.join()
    assert set(AliasStore(path).all()) == {str(number) for number in range(30)}
