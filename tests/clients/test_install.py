"""The installer of the clients decides what to leave alone; the helpers of these tests can fail."""

import importlib.util
from pathlib import Path

import pytest

from tests.clients.calls import assert_failed, streamed
from tests.clients.servers import with_pooling

SCRIPT = Path(__file__).parents[2] / "tools" / "install_clients.py"
spec = importlib.util.spec_from_file_location("install_clients", SCRIPT)
assert spec is not None
assert spec.loader is not None
installer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(installer)


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    assert "not made by this program" in installer.foreign(tmp_path)
    assert installer.main(["--folder", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_new_an_empty_and_an_own_folder_are_taken(tmp_path: Path) -> None:
    assert installer.foreign(tmp_path / "new") == ""
    assert installer.foreign(tmp_path) == ""
    (tmp_path / "clients.txt").write_text("")
    assert installer.foreign(tmp_path) == ""


def test_a_part_is_installed_anew_when_its_versions_change(tmp_path: Path) -> None:
    stamp = tmp_path / "installed.txt"
    assert not installer.is_current(stamp, ["a==1"])
    stamp.write_text("a==1\n")
    assert installer.is_current(stamp, ["a==1"])
    assert not installer.is_current(stamp, ["a==2"])


def test_a_part_that_cannot_be_here_is_told_and_no_failure(tmp_path: Path) -> None:
    def install(folder: Path) -> None:
        raise installer.Left("no npm")

    assert installer.install_all(tmp_path, [("node", ("ollama@1",), install)]) == 0
    assert (tmp_path / "node.left-out").read_text() == "no npm\n"
    assert not (tmp_path / "node").exists()


def test_only_the_named_requirements_are_taken_with_their_pins_and_without_extras() -> None:
    told = ["httpx[http2]==0.28.1", "torch==2", "Python_Multipart==1", "redis==8 ; extra == 'all'", "httpx2==2"]
    names = frozenset({"httpx", "python-multipart", "redis"})
    assert installer.needed(told, names) == ["httpx[http2]==0.28.1", "Python_Multipart==1"]


@pytest.mark.parametrize(("version", "refused"), [((3, 10), True), ((3, 11), False), ((3, 14), False)])
def test_an_old_python_is_refused(version: tuple[int, int], refused: bool) -> None:
    assert bool(installer.unfit(version, has_venv=True)) is refused
    assert installer.unfit(version, has_venv=False)


def test_two_entries_are_put_into_a_gguf_file_and_keep_it_aligned() -> None:
    header = b"GGUF" + (3).to_bytes(4, "little") + (7).to_bytes(8, "little") + (5).to_bytes(8, "little")
    changed = with_pooling(header + b"rest")
    assert changed[8:16] == (7).to_bytes(8, "little")
    assert changed[16:24] == (7).to_bytes(8, "little")
    assert changed.endswith(b"rest")
    assert (len(changed) - len(header + b"rest")) % 32 == 0


def test_an_answer_where_an_error_belongs_and_a_stream_without_end_are_found() -> None:
    with pytest.raises(AssertionError, match="did not fail"):
        assert_failed({"done": True}, status=404, text="")
    with pytest.raises(AssertionError):
        assert_failed({"failed": "ResponseError", "status": 400, "text": "x"}, status=404, text="")
    part = {"model": "m", "done": False, "message": {"role": "assistant", "content": "a"}}
    with pytest.raises(AssertionError):
        streamed([part, part], model="m")
