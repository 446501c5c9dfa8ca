"""Make a pruned set from a recipe (read, choose, write), or remake it to verify an existing one."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.bad_samples import BadSamples
from llava_mistral.pruning import manifest, methods, principles
from llava_mistral.pruning.model_evidence import ModelEvidence
from llava_mistral.pruning.output import DATA_FILE, write_card, write_llava_json, write_rows
from llava_mistral.pruning.recipe import PLACES, Machine, PruneRecipe
from llava_mistral.pruning.samples import Samples, check_ids, read_samples
from llava_mistral.pruning.words import ties_of
from llava_mistral.pruning.workers import Processes

if TYPE_CHECKING:
    from llava_mistral.data.scienceqa import Problem
    from llava_mistral.pruning.measures import Embedding
    from llava_mistral.pruning.vectors import Vectors

ALONE, HERE = Processes(), Machine()
# Asks a model (its name or folder) about problems, and keeps the answers in a folder: {pid: evidence}. Who answers
# questions is another room's business, so the verb hands this in.
Ask = Callable[[str, "list[Problem]", Path], Mapping[str, ModelEvidence]]


def read(recipe: PruneRecipe, bad: BadSamples) -> Samples:
    """Return the samples to choose from; no picture is opened."""
    names = ("split", "pid_splits", "image_folder", "answer_style", "columns", "dataset_config", "conversations")
    return read_samples(recipe.dataset, **{name: getattr(recipe, name) for name in names}, bad=bad)


def read_whole(recipe: PruneRecipe) -> tuple[Samples, BadSamples]:
    """Return the samples to choose from, their pictures looked at, and the bad ones that were left out.

    Raises:
        BadInput: the data cannot be used, or, before a picture is opened, the size is impossible.
    """
    bad = BadSamples(recipe.on_bad_sample, recipe.max_bad_samples)
    samples = read(recipe, bad)
    check_size(recipe, samples)
    samples = samples.checked(recipe.check_pictures, bad)
    check_ids(samples)
    return samples, bad


def check_size(recipe: PruneRecipe, samples: Samples) -> None:
    """Refuse a size that no choice by the recipe can have.

    Raises:
        BadInput: it is larger than what there is to choose from.
    """
    problems, pool = samples.problems, _pool(recipe, samples)
    size = recipe.count(len(problems))
    if recipe.method == "full":
        methods.everything(problems, pool, size)
    elif recipe.method != "principles" or recipe.scorer:
        methods.check_size(size, pool[int(recipe.drop_outliers * len(pool)) :])
    elif size > len(pool) // 4:  # below that, judging all words twice costs more than it saves
        scores, coverage = principles.score(problems), recipe.coverage == "images"
        methods.by_principles(problems, scores, size, threshold=recipe.necessity, whole_coverage=coverage)


def _pool(recipe: PruneRecipe, samples: Samples) -> list[int]:
    pictured = recipe.pool == "images" or recipe.method == "principles"
    return [i for i, problem in enumerate(samples.problems) if problem.has_image or not pictured]


def score(recipe: PruneRecipe, samples: Samples, folder: Path, ask: Ask | None) -> list[principles.Scores]:
    """Return the scores of every sample; what `recipe.scorer` answers is kept in `folder`."""
    if not recipe.scorer:
        return principles.score(samples.problems)
    from llava_mistral.pruning.model_evidence import askable

    problems = samples.with_pictures() if samples.pictures else samples.problems
    evidence = ask(recipe.scorer, askable(problems, recipe.dataset), folder)
    return principles.score(samples.problems, evidence)


def vectors_of(recipe: PruneRecipe, machine: Machine) -> "Vectors":
    """Return where the vectors of the recipe come from."""
    from llava_mistral.pruning.vectors import Vectors

    file = Path(recipe.embeddings) if recipe.embeddings else None
    return Vectors(file, recipe.embedder, machine)


def choose(
    recipe: PruneRecipe, samples: Samples, scores: list[principles.Scores], machine: Machine, processes: Processes
) -> "tuple[methods.Choice, Embedding | None]":
    """Return the choice, and what the report draws of the embedding where there is one."""
    problems, pool = samples.problems, _pool(recipe, samples)
    size = recipe.count(len(problems))
    if recipe.method == "principles":
        options = {"threshold": recipe.necessity, "whole_coverage": recipe.coverage == "images"}
        options["ties"] = ties_of(problems, recipe.seed, samples.digests if samples.pictures else None)
        return methods.by_principles(problems, scores, size, **options), None
    if recipe.method == "random":
        return methods.by_chance(problems, pool, size, seed=recipe.seed, stratified=recipe.stratified), None
    if recipe.method == "full":
        return methods.everything(problems, pool, size), None
    return vectors_of(recipe, machine).choose(samples, pool, size, recipe, processes)


@dataclass(frozen=True)
class PrunedSet:
    """What a recipe chose, and what it takes to write it.

    Attributes:
        manifest: what the set is, without the hashes of its files.
        bad: the samples that were left out.
    """

    recipe: PruneRecipe
    manifest: dict[str, Any]
    samples: Samples
    choice: methods.Choice
    scores: list[principles.Scores]
    embedding: "Embedding | None"
    bad: BadSamples

    def write(self, folder: Path) -> None:
        """Write rows (where the pictures are at hand), skipped.json, report and manifest into an empty folder."""
        from llava_mistral.pruning.selection_report import write_report

        if self.samples.pictures:
            table = self.samples.rows(self.choice.picks)
            write_rows(table, folder / DATA_FILE, source=self.recipe.dataset)
            write_card(table, folder)
            if self.recipe.llava_json:
                write_llava_json(table, folder, source=self.recipe.dataset)
        self.bad.write(folder)
        write_report(folder, self.manifest, self.samples, self.choice, self.scores, self.embedding)
        manifest.write_manifest(self.manifest, folder)


def make(
    recipe: PruneRecipe,
    *,
    scores_folder: Path,
    ask: Ask | None = None,
    machine: Machine = HERE,
    processes: Processes = ALONE,
) -> PrunedSet | None:
    """Choose by the recipe. Of several processes the first returns the set, the others None.

    Args:
        scores_folder: where the answers of `recipe.scorer` are kept.

    Raises:
        BadInput: the data cannot be read, or the recipe cannot be followed on it.
    """
    samples, bad = read_whole(recipe)
    if recipe.method != "farthest":
        if processes.rank:
            return None
        processes = ALONE  # the others are gone
    scores = score(recipe, samples, scores_folder, ask)
    choice, embedding = choose(recipe, samples, scores, machine, processes)
    if processes.rank:
        return None
    lacks = principles.missing_principles(samples.problems) if recipe.method == "principles" else []
    described = manifest.describe(
        choice,
        samples.problems,
        recipe=recipe.as_dict(),
        input_sha256=samples.sha256(),
        source=recipe.source,
        license=recipe.license,
        notes=[*(f"not judged by {lack}" for lack in lacks), *choice.notes],
        skipped=len(bad.listed),
        counted={"kept": samples.counted(choice.picks), "input": samples.counted(range(len(samples.problems)))},
        pictures=samples.count_pictures(),
    )
    return PrunedSet(recipe, described, samples, choice, scores, embedding, bad)


def verify(
    folder: str | Path, places: Mapping[str, str | None], *, ask: Ask | None = None, machine: Machine = HERE
) -> list[str]:
    """Return in what a pruned set differs from its files' hashes, or else from its recipe run again; [] in nothing.

    Args:
        places: where what it was made from lies now, by name (`recipe.PLACES`); None: where it lay.

    Raises:
        BadInput: there is no such set, or what it was made from is not there.
    """
    known = manifest.read_manifest(folder)
    recipe = PruneRecipe.of_manifest(known, Path(folder) / manifest.NAME).moved(places)
    differences = [f"{name}: {change}" for name, change in manifest.changed_files(Path(folder)).items()]
    if differences:
        return differences
    with tempfile.TemporaryDirectory() as spare_folder:
        there = recipe.embeddings and Path(recipe.embeddings).is_file()
        spare = "embedder" if there else "embeddings" if recipe.embedder else None
        manifest.check_places(folder, {name: getattr(recipe, name) for name in PLACES if name != spare})
        if recipe.embeddings and spare == "embeddings":
            recipe = replace(recipe, embeddings=str(Path(spare_folder) / "embeddings.npy"))
        again = Path(spare_folder) / "again"
        again.mkdir()
        selection = make(recipe, scores_folder=Path(spare_folder) / "scores", ask=ask, machine=machine)
        selection.write(again)
        return manifest.differences(Path(folder), again)


def summary(pruned: PrunedSet, output: str | Path) -> list[str]:
    """Return, in lines, what was kept, what it covers, how many were dropped for which reason, and what to know."""
    recipe, described = pruned.recipe, pruned.manifest
    pool = 1 if recipe.method == "principles" or recipe.pool == "images" else 2
    covered = ", ".join(
        f"{level} {counts[0]}/{counts[pool]}" for level, counts in described["coverage"].items() if counts[pool]
    )
    given, kept = described["input"], f"{described['size']:,} of {described['input']['rows']:,}"
    if given["answers"] > given["conversations"]:
        kept = ", ".join(
            f"{described['kept_' + what]:,} of {given[what]:,} {what}" for what in ("conversations", "answers")
        )
    lines = [f"{output}: kept {kept}" + (f"; covers {covered}" if covered else "")]
    if not pruned.samples.pictures:
        notice = "the pictures are not at hand; wrote the manifest and the report without the rows"
        lines.insert(0, f"{recipe.dataset}: {notice}")
    if pruned.choice.cost:
        lines.insert(0, f"{recipe.method}: {pruned.choice.cost}")
    if given["skipped"]:
        lines.append(f"{output}: left out {given['skipped']:,} bad samples, see skipped.json")
    for reason, count in described["counts"].items():
        lines.append(f"  {count:>8,}  {reason}")
        if reason == "kept" and described["kept_for_coverage"]:
            alone = "of these for coverage alone: their image is not needed, and no other sample has their labels"
            lines.append(f"  {len(described['kept_for_coverage']):>8,}    {alone}")
    return lines + [f"  {note}" for note in described["notes"]]
