"""Publish a checkpoint: stage, rehearse, upload, verify."""

from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.foreign_code import runs_code
from llava_mistral.ground.pictures import open_picture
from llava_mistral.ground.recipe_files import recipe_file
from llava_mistral.ground.strict_json import read_object, write_json
from llava_mistral.ground.whole_file import sha256_of
from llava_mistral.publishing import licences, staging, verification
from llava_mistral.publishing.cards import UNKNOWN, is_hub_id
from llava_mistral.publishing.connection import call
from llava_mistral.publishing.model_card import adapter_snippet, model_card, pipeline_snippet
from llava_mistral.publishing.scanning import refuse_findings, scan_folder
from llava_mistral.publishing.staging import files_under
from llava_mistral.publishing.upload import Publication, content_tag, publish, tag


class ModelPublication:
    """A staged checkpoint with its card.

    Args:
        folder: what `staging.stage_model` made.
        rehearsal: where `check` leaves the logits that `verify` compares with.
        ask: a picture's path and a question that `verify` puts to the published model.
        local_base: for an adapter, the folder of the base it was trained on, where that is on this machine.
        online: whether the Hub may be asked what code an adapter's base brings.
    """

    repo_type = "model"

    def __init__(
        self,
        repo_id: str,
        folder: Path,
        card: str,
        revision: str,
        left_out: list[str],
        rehearsal: Path,
        ask: tuple[str, str] | None = None,
        local_base: Path | None = None,
        online: bool = True,
    ):
        self.online = online
        self.ask, self.local_base = ask, local_base
        self.repo_id, self.folder, self.revision, self.left_out = repo_id, folder, revision, left_out
        self.adapter = (folder / "adapter_config.json").is_file()
        self.rehearsal = rehearsal
        self._files = {**files_under(folder), "README.md": card.encode()}

    def files(self, head: str | None) -> dict[str, Path | bytes]:
        """Path in the repository -> what will be there; the same whatever the head is."""
        return self._files

    def check(self) -> None:
        """Load it from a clean process, as a user will, before it is uploaded.

        Raises:
            BadInput: a weight is missing, surplus, misshapen or not finite, or the code does not run.
        """
        if self.adapter and self.online:
            runs_code(*self._base())
        try:
            verification.rehearse(self.folder, self.rehearsal, self.local_base)
        except verification.VerificationError as error:
            raise BadInput(
                f"the checkpoint does not load in a clean process ({error})", remedy="correct it and save it again"
            ) from error

    def publish(self, api, private: bool) -> Publication:
        """Commit it, and name the commit by its content."""
        done = publish(
            api,
            self.repo_id,
            self.repo_type,
            self.files,
            message=f"Publish {self.revision}",
            owns=staging.is_replaced,
            private=private,
        )
        tag(api, done, self.revision)
        return done

    def verify(self, published: Publication) -> str:
        """Receive it as a stranger; say what was compared."""
        given = (published.repo_id, published.commit, published.files)
        if self.adapter:
            trust = runs_code(*self._base())
            seen = verification.verify_adapter(*given, self.folder, self.rehearsal, self._base(), trust)
            prompts = " and ".join(seen["prompts"])
            return (
                f"verified: {seen['files']} files equal by sha256, "
                f"logits on {self._base()[0]} equal bit for bit ({prompts} prompt)"
            )
        seen = verification.verify_model(*given, self.rehearsal, self.ask)
        question = " ".join(self.ask[1].split()) if self.ask else "a question about a picture"
        shown = f";\nasked {question!r}, the pipeline answers {seen['answer']!r}" if seen["answer"] is not None else ""
        prompts = " and ".join(seen["prompts"])
        return f"verified: {seen['files']} files equal by sha256, logits equal bit for bit ({prompts} prompt){shown}"

    def snippet(self, published: Publication) -> str:
        """Six lines a stranger pastes, pinned to the commit."""
        if self.adapter:
            return adapter_snippet(published.repo_id, published.commit, *self._base())
        has_code = bool(read_object(self.folder / "config.json").get("auto_map"))
        return pipeline_snippet(published.repo_id, published.commit, has_code)

    def _base(self) -> tuple[str, str | None]:
        """Hub id and commit of an adapter's base."""
        config = read_object(self.folder / "adapter_config.json")
        return config["base_model_name_or_path"], config.get("revision")


def _pin_base(api, config_file: Path) -> None:
    """Note in an adapter's configuration the commit that its base is at: PEFT loads the base at this `revision`.

    Raises:
        BadInput: the base is not on the Hub, so that no user could load the adapter.
    """
    config = read_object(config_file)
    base, revision = config["base_model_name_or_path"], config.get("revision")
    commit = call(lambda: _commit_of_base(api, base, revision), base)
    if commit != revision:
        write_json(config_file, {**config, "revision": commit})


def _commit_of_base(api, base: str, revision: str | None) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.model_info(base, revision=revision).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at {revision}" if revision else ""
        raise BadInput(
            f"the adapter's base {base}{at} is not on the Hub",
            remedy="publish the base first, or name it with --base_model OWNER/NAME",
            field="base_model_name_or_path",
        ) from None


def _local_base(folder: Path) -> Path | None:
    """The folder an adapter names as its base, where it is on this machine."""
    if not (folder / "adapter_config.json").is_file():
        return None
    named = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    base = Path(named).expanduser() if isinstance(named, str) and named else None
    return base if base and (base / "config.json").is_file() else None


def prepare_model(
    folder: Path,
    repo_id: str,
    workspace: Path,
    *,
    license: str | None = None,
    results: list[Path] = (),
    chart: Path | None = None,
    recipe: str | Path | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
    ask: tuple[str, str] | None = None,
    api=None,
) -> ModelPublication:
    """Stage a checkpoint, scan it, and write its card.

    Args:
        workspace: an empty folder for the staged copy; weights are linked into it, not copied.
        results: evaluation summaries for the results tables.
        dataset: the Hub id of the training data, where run.json names a local folder.
        ask: a picture's path and a question, put to the published model when it is verified.
        api: the Hub's client, asked for the commit of an adapter's base; None contacts nothing and pins no base.

    Raises:
        BadInput: the folder is not a checkpoint, or holds what must not leave.
    """
    if ask:
        _check_question(folder, ask)
    for field, name in (("base_model", base_model), ("dataset", dataset)):
        if name and not is_hub_id(name):
            raise BadInput(f"{name!r} is not a Hub id", remedy="give OWNER/NAME, or leave it out", field=field)
    staged = workspace / "files"
    staged.mkdir()
    left_out = staging.stage_model(folder, staged, base_model)
    for place in filter(None, (folder, _local_base(folder))):
        runs_code(str(place))
    if api and (staged / "adapter_config.json").is_file():
        _pin_base(api, staged / "adapter_config.json")
    run = read_object(staged / "run.json") if (staged / "run.json").is_file() else {}
    if chart:
        staging.write_picture(chart, staged / "assets" / "chart.png")
    text = _recipe_text(recipe, run)
    if text:
        (staged / "recipe.yaml").write_text(text, encoding="utf-8")
    refuse_findings(scan_folder(staged, folder), folder)
    revision = content_tag("files", {path: sha256_of(content) for path, content in files_under(staged).items()})
    card = model_card(
        staged,
        repo_id,
        revision=revision,
        licence=licences.check_identifier(license or run.get("license") or UNKNOWN),
        summaries=[staging.scrub_paths(read_object(path)) for path in results],
        chart="assets/chart.png" if chart else None,
        recipe=text,
        base_model=base_model,
        dataset=dataset,
    )
    return ModelPublication(
        repo_id, staged, card, revision, left_out, workspace / "logits.npz", ask, _local_base(folder), api is not None
    )


def _check_question(folder: Path, ask: tuple[str, str]) -> None:
    if (folder / "adapter_config.json").is_file():
        remedy = "leave --ask out or publish the merged model"
        raise BadInput("an adapter alone answers no question", remedy=remedy, field="ask")
    open_picture(Path(ask[0]), field="ask")


def _recipe_text(recipe: str | Path | None, run: dict) -> str | None:
    """The recipe's text: the file the user gives, or what run.json noted."""
    import yaml

    if recipe is None:
        noted = run.get("recipe")
        return yaml.safe_dump(noted, sort_keys=False, allow_unicode=True) if noted else None
    try:
        text = recipe_file(recipe).read_text(encoding="utf-8")
        yaml.safe_load(text)
        return text
    except (OSError, ValueError, yaml.YAMLError) as error:
        message = " ".join(str(error).split())
        raise BadInput(
            f"is not a recipe ({message})", remedy="give a YAML file", file=recipe, field="recipe"
        ) from None
