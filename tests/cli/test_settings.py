"""Where settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import config
from layerstore.errors import InvalidOption
from layerstore.fs.archive import Limits
from tests.cli.running import run


def written(path: Path, text: str) -> Path:
    """The file, with this text in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_built_in_values_need_nothing() -> None:
    """Without file, variable and flag, the built-in values hold."""
    settings = config.combine([])
    assert (Path("/var/lib/layerstore"), "cli", 30.0, "full") == (
        settings.home,
        settings.holder,
        settings.timeout,
        settings.durability,
    )


def test_flags_beat_variables_beat_files(tmp_path: Path) -> None:
    """A flag prevails over a variable, and a variable over a file."""
    file = written(tmp_path / "c.toml", 'home = "/file"\nholder = "file"\ntimeout = 1\n')
    environment = {
        "LAYERSTORE_CONFIG": str(file),
        "LAYERSTORE_HOME": "/variable",
        "LAYERSTORE_HOLDER": "variable",
    }
    settings = config.load(environment, {"home": "/flag", "holder": None})
    assert (Path("/flag"), "variable", 1.0) == (settings.home, settings.holder, settings.timeout)
    assert {"home": "flags", "holder": "the environment", "timeout": str(file)} == settings.origins


def test_the_users_file_is_found(tmp_path: Path) -> None:
    """The user's own file is read, by XDG_CONFIG_HOME or below HOME, and named in the origins."""
    own = written(tmp_path / ".config" / "layerstore.toml", 'holder = "me"\n')
    assert config.load({"HOME": str(tmp_path)}, {}).origins["holder"] == str(own)
    assert config.load({"XDG_CONFIG_HOME": str(own.parent)}, {}).holder == "me"


def test_an_empty_variable_is_no_value() -> None:
    """A variable that is set to nothing counts as unset."""
    assert config.from_environment({"LAYERSTORE_HOME": "", "LAYERSTORE_TIMEOUT": "2"}) == {
        "timeout": "2"
    }


def test_other_variables_with_the_prefix_are_left_alone() -> None:
    """A variable that is no setting is not an error: others use the prefix as well."""
    assert config.from_environment({"LAYERSTORE_PORT": "tcp://10.0.0.1:80"}) == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('hoem = "/x"', "'hoem'"),
        ("home = 3", "home"),
        ("timeout = true", "timeout"),
        ('timeout = "soon"', "timeout"),
        ("timeout = -1", "timeout"),
        ("timeout = nan", "timeout"),
        ('durability = "maybe"', "durability"),
        ("durability = []", "durability"),
        ('holder = "owner:me"', "holder"),
        ("home = ", "TOML"),
        ("max_entries = -1", "max_entries"),
        ("max_ratio = 1.5", "max_ratio"),
        ('max_size = "many"', "max_size"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str, named: str) -> None:
    """A file with an unknown key or a bad value is refused, with its name and the key's."""
    file = written(tmp_path / "c.toml", text)
    with pytest.raises(InvalidOption) as caught:
        config.load({"LAYERSTORE_CONFIG": str(file)}, {})
    assert str(file) in caught.value.message
    assert named in caught.value.message


def test_a_named_file_has_to_be_there(tmp_path: Path) -> None:
    """A configuration file that LAYERSTORE_CONFIG names and that is missing ends with exit 16."""
    done = run(["ls"], LAYERSTORE_CONFIG=str(tmp_path / "none.toml"))
    assert done.code == 16
    assert "none.toml" in done.err


def test_the_program_reads_the_environment(tmp_path: Path) -> None:
    """LAYERSTORE_HOME names the store, and --home prevails over it, before and behind a command."""
    home = str(tmp_path / "variable")
    assert "/variable" in run(["ls"], LAYERSTORE_HOME=home).err
    assert "/flag" in run(["--home", "/flag", "ls"], LAYERSTORE_HOME=home).err
    assert "/behind" in run(["ls", "--home", "/behind"], LAYERSTORE_HOME=home).err


def test_the_home_of_an_ordinary_user() -> None:
    """Without a setting an ordinary user's store is below XDG_DATA_HOME, or ~/.local/share."""

    def home(environment: dict[str, str]) -> str:
        return str(config.load(environment, {}, ordinary=True).home)

    assert "/data/layerstore" == home({"XDG_DATA_HOME": "/data", "HOME": "/home/me"})
    assert "/home/me/.local/share/layerstore" == home({"HOME": "/home/me"})
    assert "/home/me/.local/share/layerstore" == home({"HOME": "/home/me", "XDG_DATA_HOME": "rel"})
    assert "/mine" == home({"HOME": "/home/me", "LAYERSTORE_HOME": "/mine"})
    assert Path("/var/lib/layerstore") == config.load({"HOME": "/root"}, {}).home


def test_the_limits_of_archives_are_the_librarys(tmp_path: Path) -> None:
    """Unset they are what the library takes; a size may be written as people write it."""
    unset, limits = config.load({"HOME": "/root"}, {}), Limits()
    assert (limits.bytes, limits.entries, limits.ratio) == (
        unset.max_size,
        unset.max_entries,
        unset.max_ratio,
    )
    file = written(tmp_path / "c.toml", 'max_size = "2k"\nmax_ratio = 0\n')
    settings = config.load({"LAYERSTORE_CONFIG": str(file), "LAYERSTORE_MAX_ENTRIES": "7"}, {})
    assert (2048, 7, 0) == (settings.max_size, settings.max_entries, settings.max_ratio)
