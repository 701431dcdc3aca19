"""Every TOML of the repository is parsed; wrong settings are refused in words."""

from pathlib import Path

import pytest

from larr.config import Config, load_config
from larr.errors import ConfigError

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_is_valid(path: Path) -> None:
    config = load_config(path)
    assert len(config.scene_keywords) == 10
    assert any(keyword.prompt for keyword in config.keywords)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("seed = 3\n[align]\nepochs = 2\n")
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\n[align]\nbatch_size = 7\n')
    config = load_config(
        tmp_path / "mine.toml", ["align.epochs=4", "output=a/b", "align.models=['ple']"]
    )
    assert (config.seed, config.align.epochs, config.align.batch_size) == (3, 4, 7)
    assert config.output == Path("a/b")
    assert config.align.models == ["ple"]
    assert config.pretrain == Config().pretrain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sede = 1", "sede"),
        ("seed = 'one'", "seed"),
        ("seed = -1", "seed"),
        ("[align]\nbatch_size = -1", "align.batch_size"),
        ("[dataset]\nkind = 'town'", "dataset.kind"),
        ("seed = ", "not a readable TOML"),
        ("extends = 'gone.toml'", "no such file"),
        (
            "[[keywords]]\nname='a b'\nowner='poi'\nview='basic'\ntemplate='{poi_name}'",
            "keywords.0.name",
        ),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(path)


@pytest.mark.parametrize("override", ["seed", "=1", "seed.deeper=1"])
def test_a_wrong_override_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "plain.toml"
    path.write_text("seed = 1")
    with pytest.raises(ConfigError):
        load_config(path, [override])
