"""All configurations of the repository are valid; invalid settings are explained."""

import pickle
from pathlib import Path

import pytest

from larr.config import Config
from larr.config.rankers import AlignConfig
from larr.errors import ConfigError
from larr.settings import all_settings, load_config, settings_below

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_is_valid(path: Path) -> None:
    config = load_config(path)
    if config.dataset.kind in ("city", "coupon"):
        paper_r = 10
        of_instruct = {config.instruct.knowledge, *config.instruct.answers}
        others = [k for k in config.scene_keywords if k.name not in of_instruct]
        assert len(others) == paper_r
        assert any(keyword.prompt for keyword in config.keywords)


def test_overrides_precede_the_file_and_the_file_defaults(tmp_path: Path) -> None:
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
    ("text", "message"),
    [
        ("sede = 1", "sede"),
        ("seed = 'one'", "seed"),
        ("seed = -1", "seed"),
        ("[align]\nbatch_size = -1", "align.batch_size"),
        ("seed = ", "not a readable TOML"),
        ("extends = 'gone.toml'", "no such file"),
        ("extends = 'wrong.toml'", "must name another file"),
        ("extends = 'round.toml'", "must name another file"),
        ("[align]\nbatchsize = 2", "did you mean align.batch_size"),
        ("seed = 4294967296", "less than 4294967296"),
        ("[contrast]\ntemperature = 0", "contrast.temperature"),
        ("[contrast]\nbatch_size = 1", "contrast.batch_size"),
        ("[features]\nhalf_life_days = inf", "features.half_life_days"),
        ("[dataset.tables.rename.shops]\ntime = 'when'", "dataset.tables.rename"),
        (
            "[[keywords]]\nname='near'\nowner='poi'\nview='basic'\ntemplate='{poi_name}'",
            "reserved keyword names: near",
        ),
        (
            "[[keywords]]\nname='a'\nowner='poi'\nview='action'\ntemplate='{poi_name}'",
            "a keyword of poi has the view business or basic, got action",
        ),
        (
            "[[buckets]]\ncolumn='a'\nwords=['x', 'y']\n" * 2,
            "columns of buckets must be unique",
        ),
        (
            "[[keywords]]\nname='a b'\nowner='poi'\nview='basic'\ntemplate='{poi_name}'",
            "keywords.0.name",
        ),
        ("[align.variants.'a/b']\nof = 'ple'", "align.variants"),
        ("[align.scene]\nheads = 3", r"must divide embed.dimension, got 3 and 128"),
        (
            "[align.variants.wide]\nof = 'larr'\nsettings = { 'scene.heads' = 5 }",
            r"align.scene.heads \(wide\) must divide",
        ),
        ("[align.ple]\nexpert_units = []", "align.ple.expert_units"),
        ("[align.ple]\ntower_units = [0]", "align.ple.tower_units"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    (tmp_path / "round.toml").write_text("extends = 'wrong.toml'")
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_table_of_settings_is_merged(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[contrast]\ntriples = 777\n[align.scene]\nheads = 2\n"
        "[encoders.plain]\ncontrast.shuffle_keywords = false\n"
        "[align.variants.two]\nof = 'larr'\nsettings = { scene.layers = 2 }\n"
    )
    config = load_config(path, ["encoders.plain.contrast.pooling=end"])
    plain = config.for_encoder("plain").contrast
    assert (plain.triples, plain.pooling, plain.shuffle_keywords) == (777, "end", False)
    two = config.align.of("two").scene
    assert (two.layers, two.heads) == (2, 2)


def test_tuned_settings_of_larr_apply_to_its_controls() -> None:
    align = AlignConfig(
        tuned={"larr": {"dropout": 0.2, "learning_rate": 0.01}, "larr_tfidf": {"dropout": 0.1}}
    )
    for name, dropout in (("larr", 0.2), ("larr_shuffled", 0.2), ("larr_tfidf", 0.1), ("ple", 0.0)):
        assert align.of(name).dropout == dropout
    assert align.of("larr_tfidf").learning_rate == 0.01


def test_the_output_is_named_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("seed = 3")
    assert load_config(tmp_path / "mine.toml").output == Path("runs/mine")


def test_unused_tables_are_refused(tmp_path: Path) -> None:
    text = "[dataset]\nkind = 'city'\n[dataset.tables]\nplaces = 'places.csv'"
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match='kind is "city"'):
        load_config(tmp_path / "mine.toml")


def test_the_error_for_an_unknown_setting_suggests_the_nearest() -> None:
    assert [*settings_below("align.scene.heads")] == ["align.scene.heads"]
    with pytest.raises(ConfigError, match=r"did you mean align\.batch_size"):
        settings_below("align.batchsize")


def test_a_misspelt_setting_is_one_problem(tmp_path: Path) -> None:
    text = '[[keywords]]\nname = "k"\nowner = "poi"\nview = "basic"\ntemplat = "{poi_name}"'
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"did you mean keywords\[\]\.template") as caught:
        load_config(tmp_path / "mine.toml")
    assert "Field required" not in str(caught.value)
    (tmp_path / "mine.toml").write_text(text.replace("templat", "colour"))
    with pytest.raises(ConfigError, match=r"template: Field required"):
        load_config(tmp_path / "mine.toml")


def test_every_setting_is_listed() -> None:
    listed = all_settings()
    assert listed["align.scene.heads"].default == 4
    assert listed["keywords[].owner"].is_required()
    assert listed["align.variants.NAME.of"].description
    assert "contrast.near" in listed
    assert "studies.NAME.title" in listed
    assert not [path for path, field in listed.items() if not field.description]


@pytest.mark.parametrize("override", ["seed", "=1", "seed.deeper=1"])
def test_an_invalid_override_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "plain.toml"
    path.write_text("seed = 1")
    with pytest.raises(ConfigError):
        load_config(path, [override])


def test_a_configuration_reaches_a_worker_process() -> None:
    config = load_config(CONFIGS[0])
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301
