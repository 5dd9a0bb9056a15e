import re

from harness import errors


def drawn() -> dict[str, tuple[str, int]]:
    """Parent and exit code of each class in the docstring's drawing."""
    found, parents = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│├└─ ]*)(\w+)\s+(\d+)  ", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            found[match[2]] = (parents.get(depth - 1, "Exception"), int(match[3]))
    return found


def test_the_drawing_of_the_errors_is_the_errors():
    classes = {
        name: (kind.__mro__[1].__name__, kind.exit_code)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.HarnessError)
    }
    assert classes == drawn()


def test_an_engines_error_names_its_log(tmp_path):
    error = errors.EngineCrashed("it ended", log=tmp_path / "engine.log")
    assert str(tmp_path / "engine.log") in error.message
    assert error.log == tmp_path / "engine.log"
