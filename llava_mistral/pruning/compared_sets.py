"""Compare several selections of the same data: comparison.json and report.html."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import write_json
from llava_mistral.pruning.contact_sheet import sheet, shown_of, thumbnails
from llava_mistral.pruning.coverage import LEVELS
from llava_mistral.pruning.embedding import flat_map
from llava_mistral.pruning.manifest import NAME as MANIFEST
from llava_mistral.pruning.manifest import read_manifest
from llava_mistral.pruning.measures import (
    Embedding,
    Selection,
    distances_to,
    measures_of,
    overlap,
    reach_of,
)
from llava_mistral.pruning.principles import Scores
from llava_mistral.pruning.recipe import Machine, PruneRecipe
from llava_mistral.pruning.run import ALONE, HERE, read_whole, score, vectors_of
from llava_mistral.pruning.selection_charts import coverage_bars, formatted, histograms, maps, table
from llava_mistral.pruning.selection_report import page

if TYPE_CHECKING:
    from llava_mistral.pruning.run import Ask
    from llava_mistral.pruning.samples import Samples
    from llava_mistral.pruning.vectors import Vectors

NAME = "comparison.json"
EXAMPLES = 6  # samples on each side of each selection's contact sheet


def read_sets(folders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return {name: manifest} of pruned sets; a name is the folder's own, or its path where two are called the same.

    Raises:
        BadInput: a folder is no pruned set, is named twice, or was chosen from other data than the first.
    """
    short = [Path(folder).name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise BadInput("a set is named twice", remedy="name each once", field="compare")
    manifests = {name: read_manifest(folder) for name, folder in zip(names, folders, strict=True)}
    first = manifests[names[0]]["input"]
    for name, folder in zip(names, folders, strict=True):
        if manifests[name]["input"]["sha256"] != first["sha256"]:
            problem = f"was chosen from other data than {folders[0]}"
            remedy = "compare sets of one data set and split"
            raise BadInput(problem, remedy=remedy, file=Path(folder) / MANIFEST, field="input")
    return manifests


def lines(manifests: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return lines of text: size and coverage of each set, then the overlap of each pair."""
    summary = []
    for name, manifest in manifests.items():
        covered = ", ".join(f"{counts[0]} {level} labels" for level, counts in manifest["coverage"].items())
        summary.append(
            f"{name}: {manifest['size']:,} of {manifest['input']['rows']:,} by {manifest['method']}; {covered}"
        )
    for first, second in combinations(manifests, 2):
        common = overlap(manifests[first], manifests[second])
        summary.append(
            f"{first} and {second}: {common['both']:,} in both ({common['by_chance']:,.0f} by chance), "
            f"{100 * common['jaccard']:.1f} % of their union"
        )
    return summary


def selections_of(samples: "Samples", manifests: Mapping[str, dict[str, Any]]) -> list[Selection]:
    """Return the sets by index into the samples they were chosen from.

    Raises:
        BadInput: the samples are not those.
    """
    first = next(iter(manifests.values()))["input"]
    if samples.sha256() != first["sha256"]:
        remedy = "name the data that the sets were chosen from with --dataset"
        raise BadInput("is not the data that the sets were chosen from", remedy=remedy, file=samples.source)
    place = {problem.pid: i for i, problem in enumerate(samples.problems)}
    return [
        Selection(
            name,
            [place[pid] for pid in manifest["kept"]],
            {place[pid]: reason for pid, reason in manifest["dropped"].items()},
            [place[pid] for pid in manifest["kept_for_coverage"]],
        )
        for name, manifest in manifests.items()
    ]


def make_comparison(
    manifests: Mapping[str, dict[str, Any]],
    recipe: PruneRecipe,
    *,
    scores_folder: Path,
    ask: "Ask | None" = None,
    machine: Machine = HERE,
) -> Callable[[Path], None]:
    """Read what sets were chosen from, and return what writes their comparison into a folder.

    Args:
        recipe: how to read the samples, and where the vectors lie and the scorer, if any, by which all are judged.
    """
    samples, _ = read_whole(replace(recipe, method="full", size=None))
    selections = selections_of(samples, manifests)
    scores = score(recipe, samples, scores_folder, ask)
    embedding = embedding_of(vectors_of(recipe, machine), samples, selections) if recipe.embeddings else None
    return lambda folder: write_comparison(folder, manifests, samples, selections, scores, embedding)


def recipe_of(manifests: Mapping[str, dict[str, Any]], places: Mapping[str, str | None]) -> PruneRecipe:
    """Return how the sets' samples are read, and the vectors that one of them was chosen by, where they are there.

    Args:
        places: where the data and its embeddings lie now, by name (`recipe.PLACES`); None: where they lay.
    """
    name, first = next(iter(manifests.items()))
    used = [manifest["recipe"].get("embeddings") for manifest in manifests.values()]
    found = next((path for path in used if path and Path(path).is_file()), None)
    recipe = PruneRecipe.of_manifest(first, Path(name) / MANIFEST)
    # The scorer that one set was chosen by has no say in the others: the words judge all, unless one is named.
    return replace(recipe, embeddings=found, embedder=None, scorer=None).moved(places)


def embedding_of(vectors: "Vectors", samples: "Samples", selections: Sequence[Selection]) -> Embedding:
    """Return what charts draw of an embedding of all samples, and how far each selection is from them."""
    matrix = vectors.matrix(samples, ALONE)
    rows = vectors.rows(matrix, range(len(matrix)))
    nearest = {selection.name: distances_to(rows, selection.picks) for selection in selections}
    return Embedding(flat_map(matrix), {i: i for i in range(len(rows))}, nearest)


def write_comparison(
    folder: Path,
    manifests: Mapping[str, dict[str, Any]],
    samples: "Samples",
    selections: Sequence[Selection],
    scores: Sequence[Scores],
    embedding: Embedding | None = None,
) -> None:
    """Write comparison.json (measures, overlaps) and report.html."""
    problems = samples.problems
    measures = {entry.name: measures_of(problems, scores, entry.picks) for entry in selections}
    everything = measures_of(problems, scores, range(len(problems)))
    if embedding is not None:
        measures = {name: entry | reach_of(embedding.nearest[name]) for name, entry in measures.items()}
    common = [
        {"sets": [a, b], **overlap(manifests[a], manifests[b])}
        for a, b in combinations([entry.name for entry in selections], 2)
    ]
    of_input = next(iter(manifests.values()))["input"]
    result = {"input": of_input, "all": everything, "sets": measures, "overlaps": common}
    write_json(folder / NAME, result)
    title = f"{len(selections)} choices among {of_input['rows']:,} samples of {of_input['name']}"
    parts = [_measures(measures, everything), _overlaps(list(measures), common)]
    parts += [coverage_bars(problems, selections, level) for level in LEVELS]
    if embedding is not None:
        parts += [maps(embedding, selections), histograms(embedding.nearest)]
    shown = {entry.name: shown_of(problems, entry, EXAMPLES) for entry in selections}
    pictures = thumbnails(samples, [i for kept, pruned in shown.values() for i in kept + pruned])
    for entry in selections:
        parts.append(f"<h2>{html.escape(entry.name)}: kept and pruned, side by side</h2>")
        parts.append(sheet(problems, entry, scores, shown[entry.name], pictures))
    (folder / "report.html").write_text(page(title, parts), encoding="utf-8")


def _measures(measures: Mapping[str, dict[str, float]], everything: dict[str, float]) -> str:
    names = dict.fromkeys(name for of in measures.values() for name in of)
    rows = [[name, *(of.get(name, "") for of in measures.values()), everything.get(name, "")] for name in names]
    return f"<h2>What each is worth</h2>{table(['', *measures, 'all samples'], rows)}"


def _overlaps(names: Sequence[str], common: Sequence[dict[str, Any]]) -> str:
    """A square of what each two have in common, as a share of their union; below it the numbers."""
    shares = {frozenset(entry["sets"]): entry["jaccard"] for entry in common}
    head = "".join(f'<th class="n">{html.escape(name)}' for name in names)
    rows = ""
    for a in names:
        cells = [1.0 if a == b else shares[frozenset((a, b))] for b in names]
        shaded = "".join(
            f'<td class="n" style="background:rgba(43,108,176,{0.6 * s:.2f})">{100 * s:.1f} %' for s in cells
        )
        rows += f"<tr><td>{html.escape(a)}{shaded}"
    numbers = [
        [" and ".join(entry["sets"]), entry["both"], formatted(round(entry["by_chance"], 1))] for entry in common
    ]
    caption = "Samples in both, as a share of those in either."
    listed = table(["", "in both", "by chance"], numbers)
    return f'<h2>Overlap</h2><p>{caption}</p><div class="wide"><table><tr><th>{head}{rows}</table></div><p>{listed}'
