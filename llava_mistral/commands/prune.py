"""Choose the samples that are worth training on: dataset -> pruned dataset + manifest.json + report.html.

    llava-mistral prune --dataset DIGITSQA --method principles --size 600 --output pruned
    llava-mistral prune --dataset data.json --method farthest --embeddings vectors.npy --size 1000 --output far
    llava-mistral prune --verify pruned
    llava-mistral prune --compare pruned far --output compared

`principles` keeps samples whose image is needed, spread over all skills, hard ones first; `farthest` those farthest
apart in an embedding; `clusters` an even share of its clusters; `random` and `full` are the controls.
"""

import argparse
import os
from pathlib import Path

from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder
from llava_mistral.ground.foreign_code import add_flag
from llava_mistral.pruning.recipe import (
    BY_VECTORS,
    NAMES,
    ONLY_FOR,
    PLACES,
    Machine,
    PruneRecipe,
    add_data,
    add_method,
    add_output,
    size_of,
)


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(prog="llava-mistral prune", about=__doc__)
    add_data(parser.add_argument_group("what to choose from").add_argument)
    add_method(parser.add_argument_group("how to choose").add_argument)
    add_flag(parser)
    add_output(parser.add_argument_group("what to write").add_argument)
    again = "rebuild a pruned set and compare it (with --dataset, --embeddings, --scorer …: from there)"
    parser.add_argument("--verify", metavar="DIR", help=again)
    common = "print how much pruned sets of one data set have in common; with --output: one report of all"
    parser.add_argument("--compare", metavar="DIR", nargs="+", help=common)
    args = parser.parse_args()
    args.image_folder = os.pathsep.join(args.image_folder) if args.image_folder else None
    _check_arguments(parser, args)
    return args


def _check_arguments(parser: VerbParser, args: argparse.Namespace) -> None:
    if args.compare and len(args.compare) < 2:
        parser.error("--compare needs something to compare with; name two pruned sets or more")
    if args.compare and args.output:
        check_output_folder(args.output, "comparison.json", args.compare)
    if args.verify or args.compare:
        return
    for name in ("dataset",) if args.dry_run else ("dataset", "method", "output"):
        if getattr(args, name) is None:
            parser.error(f"--{name} is missing")
    if args.size is None and args.method != "full" and not args.dry_run:
        parser.error("--size is missing")
    try:
        args.size = None if args.size is None else size_of(args.size)
    except ValueError as error:
        parser.error(f"--size {args.size} {error}")
    for name in ("threads", "clusters"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} is below 1")
    for name, methods in ONLY_FOR.items():
        if getattr(args, name) and args.method not in (*methods, None):
            parser.error(
                f"--{name} has no effect with --method {args.method}, only with --method {' or '.join(methods)}"
            )
    if not 0 <= args.necessity <= 1:
        parser.error(f"--necessity {args.necessity} is not between 0 and 1")
    if not 0 <= args.drop_outliers < 1:
        parser.error(f"--drop_outliers {args.drop_outliers} is not a share from 0 to below 1")
    if args.method in BY_VECTORS and args.embeddings is None and args.embedder is None:
        parser.error(f"--method {args.method} needs --embeddings or --embedder")
    if not args.dry_run:
        folders = args.image_folder.split(os.pathsep) if args.image_folder else []
        check_output_folder(args.output, "manifest.json", [args.dataset, args.embeddings, args.embedder, *folders])


def asking(device: str | None):
    """Return a function that asks a checkpoint about problems with real and with blank pictures, for the scores."""

    def ask(scorer, problems, folder):
        from llava_mistral.evaluation.asking import check_checkpoint
        from llava_mistral.evaluation.journal import AnswerSettings
        from llava_mistral.evaluation.prediction import answer_problems
        from llava_mistral.ground.devices import pick_device
        from llava_mistral.ground.foreign_code import origin, split_revision
        from llava_mistral.pruning.model_evidence import evidence

        scorer, revision = split_revision(scorer)
        check_checkpoint(scorer)
        origin(scorer, revision)
        how = {"images": ("real", "blank"), "folder": folder, "device": pick_device(device), "revision": revision}
        answers = answer_problems(scorer, problems, AnswerSettings(scoring="likelihood"), **how)
        by_image = ({pid: one.letters for pid, one in answers[image].items()} for image in how["images"])
        return evidence(problems, *by_image)

    return ask


def main() -> int | None:
    args = parse_arguments()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from llava_mistral.pruning import run
    from llava_mistral.pruning.workers import processes

    places = {name: getattr(args, name) for name in PLACES}
    how = {"ask": asking(args.device), "machine": Machine(args.device, args.threads, args.max_memory)}
    if args.compare:
        return compare(args.compare, args.output, places, how)
    if args.verify:
        differences = run.verify(args.verify, places, **how)
        for line in differences or ["comes out the same, byte for byte"]:
            print(f"{args.verify}: {line}")
        return 1 if differences else 0
    recipe = PruneRecipe(**{name: getattr(args, name) for name in NAMES})
    if args.dry_run:
        from llava_mistral.pruning.faults import faults_of

        lines, count = faults_of(recipe)
        print("\n".join(lines))
        return 1 if count else 0
    with processes() as group:
        pruned = run.make(recipe, scores_folder=Path(f"{args.output}.scores"), processes=group, **how)
        if pruned is not None:
            with whole_folder(args.output, "manifest.json") as folder:
                pruned.write(folder)
            print("\n".join(run.summary(pruned, args.output)))
            print(f"wrote {args.output}; open {Path(args.output) / 'report.html'}")
    return None


def compare(folders: list[str], output: str | None, places: dict, how: dict) -> None:
    """Print what each set is and what each two have in common; with `output` write one report of all."""
    from llava_mistral.pruning import compared_sets

    manifests = compared_sets.read_sets(folders)
    print("\n".join(compared_sets.lines(manifests)))
    if output:
        recipe = compared_sets.recipe_of(manifests, places)
        write = compared_sets.make_comparison(manifests, recipe, scores_folder=Path(f"{output}.scores"), **how)
        with whole_folder(output, compared_sets.NAME) as folder:
            write(folder)
        print(f"wrote {output}; open {Path(output) / 'report.html'}")


if __name__ == "__main__":
    run_verb(main)
