"""Recipes: every slip gets one sentence that names the key."""

import pathlib

import pytest

from spherekeras.errors import RecipeError
from spherekeras.recipe import load_recipe

ROOT = pathlib.Path(__file__).resolve().parent.parent


def load(tmp_path: pathlib.Path, text: str) -> object:
    (tmp_path / "mine.toml").write_text(text)
    return load_recipe(tmp_path / "mine.toml")


def test_a_short_recipe_is_the_defaults_under_the_files_name(tmp_path: pathlib.Path) -> None:
    recipe = load(tmp_path, "[backbone]\ndepth = 4")
    assert recipe.name == "mine" and recipe.head.name == "ASoftmax"
    assert isinstance(
        load(
            tmp_path, "[optimizer]\nlearning_rate = 1\n[backbone]\ndepth = 4"
        ).optimizer.learning_rate,
        float,
    )


def test_a_heads_arguments_are_what_its_layer_takes(tmp_path: pathlib.Path) -> None:
    text = "[backbone]\ndepth = 4\n[head]\nname = 'MagFace'\nmargins = [0.3, 0.5]\nramp = []"
    head = load(tmp_path, text).head
    assert head.name == "MagFace"
    assert dict(head.arguments) == {"margins": (0.3, 0.5), "ramp": None}


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("examples/recipes/*.toml"), *ROOT.glob("spherekeras/*.toml")],
    ids=lambda p: p.stem,
)
def test_shipped_recipes_are_valid(path: pathlib.Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", r"Unknown recipe key `stepz`"),
        (
            "[training]\nstep = 3",
            r"Unknown recipe key `training.step`. Did you mean `training.steps`",
        ),
        ("[head]\ncalls_per_step = 4", r"`head.calls_per_step` follows from `training.accumulati"),
        ("[trainign]\nsteps = 3", r"Unknown recipe key `trainign`. Did you mean `training`\?"),
        ("[training]\nsteps = '3'", r"Recipe key `training.steps` wants int. Received: '3'"),
        ("[training]\nsteps = 3.0", r"`training.steps` wants int. Received: 3.0"),
        ("[optimizer]\nmilestones = 5", r"`optimizer.milestones` wants a list. Received: 5"),
        ("[training]\nsteps = true", r"`training.steps` wants int. Received: True"),
        ("[training]\nsteps = 0", r"`training.steps` lies between 1 and .* Received: 0"),
        (
            "[training]\nsteps = 7",
            r"multiple of `training.checkpoint_steps` \(200\). Set steps = 200",
        ),
        ("[training]\nprecision = 'bfloat16'", r"Did you mean 'mixed_bfloat16'"),
        ("[head]\nname = 'A-Softmax'", r"`head.name` knows ASoftmax.*Did you mean 'ASoftmax'"),
        ("head = 'ASoftmax'", r"`head` is a section: write `\[head\]`"),
        ("[backbone]\nname = 'ResNet'", r"`backbone.name` knows SphereFaceNet, MobileFaceNet"),
        ("[optimizer]\nmilestones = [5, 3]", r"`optimizer.milestones` rise between"),
        ("[augmentation]\nshift = 'far'", r"`augmentation.shift` wants float"),
        ("data = 3", r"`data` is a section: write `\[data\]`. Received: 3"),
        ("seed = -1", r"`seed` lies between 0 and .* Received: -1"),
        (
            "[augmentation]\nshift = nan",
            r"`augmentation.shift` lies between 0 and 56. Received: nan",
        ),
        ("[augmentation]\nzoom = 9.0", r"`augmentation.zoom` lies between 0 and 0.5"),
        ("[optimizer]\nlearning_rate = inf", r"`optimizer.learning_rate` lies between"),
        ("name = '-x'", r"starts with a letter or digit. Received: name='-x'"),
        ("name = 'a/b'", r"letters, digits, '_', '-' and '.', .* Received: name='a/b'"),
        ("[backbone]\ndepth = 4\nwidth = 100", r"112x96 and 112x112.*Received: 112x100"),
        ("[backbone]\nname = 'SphereFaceNet'", r"`backbone.depth` belongs to SphereFaceNet.*None"),
        ("[backbone]\nname = 'IResNet'", r"IResNet \(18, 34, 50 or 100\), which need it.*None"),
        ("[backbone]\nname = 'MobileFaceNet'\ndepth = 4", r"`backbone.depth` belongs .*depth=4"),
        ("[teacher]\ncommon = 0.5", r"names whom to imitate.*common=0.5\). Add `preset`, or take"),
        (
            "[optimizer]\nname = 'AdamW'\nmomentum = 0.5",
            r"`optimizer.momentum` belongs to SGD.*Received: 0.5. Take it out",
        ),
        (
            "[backbone]\ndepth = 4\n[backbone.arguments]\ndepth = 10",
            r"contradicts the recipe: depth is 10 there and 4 in `\[backbone\]`",
        ),
        (
            "[backbone]\ndepth = 4\n[backbone.arguments]\ninput_shape = [112, 112, 3]",
            r"input_shape is \[112, 112, 3\] there and \[112, 96, 3\]",
        ),
        ("name = ", r"mine.toml is not a TOML recipe"),
    ],
)
def test_slips_are_named(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, text)


def test_a_missing_recipe_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match=r"No recipe at .*none.toml. Give the path"):
        load_recipe(tmp_path / "none.toml")


def test_every_trained_preset_has_its_recipe_in_the_examples() -> None:
    trained = [p for p in ROOT.glob("zoo/*/recipe.toml") if p.stat().st_size]
    assert len(trained) >= 5
    for path in trained:
        ours = ROOT / "examples" / "recipes" / f"{path.parent.name}.toml"
        assert path.read_text(encoding="utf-8") == ours.read_text(encoding="utf-8"), path


def test_recipes_know_every_head() -> None:
    from spherekeras import layers
    from spherekeras.recipe import HEADS

    bases = {"Head", "MarginHead", "NormalizedDense"}
    assert set(HEADS) == set(layers.__all__) - bases


def test_a_backbone_takes_further_arguments(tmp_path: pathlib.Path) -> None:
    from spherekeras.training import backbone_arguments

    text = "[backbone]\nname = 'SFNet'\ndepth = 4\nwidth = 112\narguments = {batch_norm = true}"
    assert backbone_arguments(load(tmp_path, text).backbone) == {
        "depth": 4,
        "embedding_dim": 512,
        "input_shape": [112, 112, 3],
        "batch_norm": True,
    }


def test_recipes_know_every_backbone_but_the_converted() -> None:
    from spherekeras.presets import BACKBONES as PRESETS
    from spherekeras.recipe import BACKBONES

    assert set(BACKBONES) == set(PRESETS) - {"DlibResNet"}
