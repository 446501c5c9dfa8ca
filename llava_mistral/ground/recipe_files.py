"""Recipes: the YAML files that come with the package, by name, and a user's own, by path."""

from difflib import get_close_matches
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_file(name: str | Path) -> Path:
    """The file of a recipe: a path as it is, or one of the package's by its name, such as `mistral/pretrain`.

    Raises:
        BadInput: there is no such file; names the nearest recipe of the package.
    """
    path, ours = Path(name).expanduser(), RECIPES / f"{name}.yaml"
    if path.is_file():
        return path
    known = {str(file.relative_to(RECIPES).with_suffix("")): file for file in RECIPES.glob("*/*.yaml")}
    if str(name) in known:
        return ours
    stem = str(name).removeprefix("recipes/").removesuffix(".yaml")
    nearest = (get_close_matches(stem, known, 1) or ["mistral/pretrain"])[0]
    problem = "is a folder, not a recipe" if path.is_dir() else "no such file, and not a recipe of the package"
    raise BadInput(problem, remedy=f"give a YAML file, or a name such as {nearest}", file=name, field="config")


def read_yaml(path: str | Path) -> dict:
    """Read a YAML file of keys and values; raises `BadInput` for anything else."""
    import yaml

    from llava_mistral.ground.bounded import read_bounded
    from llava_mistral.ground.bounded_yaml import load_yaml

    try:
        values = load_yaml(read_bounded(path).decode())
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", remedy="give a YAML recipe", file=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"is not YAML ({error})", remedy="correct the recipe", file=path) from None
    if not isinstance(values, dict):
        raise BadInput("is not a mapping of keys to values", remedy="write `key: value` lines", file=path)
    return values
