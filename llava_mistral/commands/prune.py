"""Choose the samples that are worth training on: dataset -> pruned dataset + manifest.json + report.html.

    llava-mistral prune --dataset DIGITSQA --method principles --size 600 --output pruned
    llava-mistral prune --dataset data.json --method farthest --embeddings vectors.npy --size 1000 --output far
    llava-mistral prune --verify pruned
    llava-mistral prune --compare pruned far --output compared

`principles` keeps samples whose image is needed, spread over all skills, hard ones first; `farthest` those farthest
apart in an embedding; `random` and `full` are the controls.
"""

import os
import tempfile
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder
from llava_mistral.ground.foreign_code import add_flag

ONLY_FOR = {"within": "farthest", "embeddings": "farthest", "embedder": "farthest", "max_memory": "farthest"}
ONLY_FOR |= {"stratified": "random", "scorer": "principles"}
# What tells one input from another.
READING = ("dataset", "split", "pid_splits", "image_folder", "answer_style", "columns")
RECIPE = (
    "dataset", "method", "size", "seed", "split", "pool", "necessity", "coverage", "scorer", "stratified", "within",
    "embeddings", "embedder", "answer_style", "pid_splits", "image_folder", "llava_json", "source", "license",
    "columns", "check_pictures", "on_bad_sample", "max_bad_samples",
)  # fmt: skip


def parse_arguments():
    parser = VerbParser(prog="llava-mistral prune", description=__doc__.split("\n")[0])
    what = parser.add_argument_group("what to choose from")
    what.add_argument("--dataset", help="ScienceQA folder, problems.json, LLaVA JSON, datasets folder or Hub id")
    what.add_argument("--split", default="train", help="split to choose from")
    what.add_argument("--pid_splits", help="ScienceQA's pid_splits.json, where it does not lie beside problems.json")
    what.add_argument("--image_folder", help="folder of the pictures of a LLaVA JSON")
    what.add_argument(
        "--pool", choices=["all", "images"], default="all", help="choose from all samples or pictured ones"
    )
    what.add_argument(
        "--columns", help="columns of a datasets folder or Hub id: question=theirs,choices=theirs,answer=theirs,…"
    )
    what.add_argument(
        "--check_pictures",
        choices=["full", "header", "none"],
        default="full",
        help="before choosing, decode every picture, look at its header, or leave bad ones to be met later",
    )
    what.add_argument(
        "--on_bad_sample", choices=["error", "skip"], default="error", help="skip: left out, listed in skipped.json"
    )
    what.add_argument("--max_bad_samples", type=float, default=0.01, help="share of skipped samples that is refused")
    how = parser.add_argument_group("how to choose")
    how.add_argument("--method", choices=["principles", "farthest", "random", "full"])
    how.add_argument("--size", type=int, help="how many samples to keep (full: all)")
    how.add_argument("--seed", type=int, default=0, help="seed of the random choice")
    how.add_argument("--necessity", type=float, default=0.5, help="principles: from what score on an image is needed")
    how.add_argument(
        "--coverage",
        choices=["images", "fitting"],
        default="images",
        help="principles: cover the labels of all pictured samples, or only of those whose image is needed",
    )
    how.add_argument(
        "--scorer",
        help="principles: checkpoint folder or OWNER/NAME@COMMIT to ask whether it needs the picture; "
        "its answers are kept in OUTPUT.scores",
    )
    how.add_argument("--stratified", action="store_true", help="random: evenly over the skills")
    how.add_argument(
        "--within",
        choices=["subject", "topic", "category", "skill"],
        help="farthest: give every such label its fair share of the size",
    )
    how.add_argument("--embeddings", help="farthest: .npy file, a float16 or float32 row per sample, in order")
    how.add_argument(
        "--embedder",
        help="farthest: CLIP-like model or LLaVA checkpoint that makes the embeddings, and keeps them in --embeddings",
    )
    how.add_argument("--device", help="torch device, such as cuda:0; default: the GPU where there is one")
    how.add_argument("--threads", type=int, help="farthest: worker threads; default: all cores")
    how.add_argument("--max_memory", help="farthest: resident memory to stay within, such as 1GB")
    add_flag(how)
    out = parser.add_argument_group("what to write")
    out.add_argument("--output", help="folder to write")
    out.add_argument("--answer_style", choices=["letter", "explained"], default="letter", help="wording of the answer")
    out.add_argument("--llava_json", action="store_true", help="write the rows as LLaVA JSON too")
    out.add_argument("--source", help="where the data comes from, for the manifest and the card")
    out.add_argument("--license", help="its licence, such as cc-by-4.0")
    parser.add_argument(
        "--verify",
        metavar="DIR",
        help="make a pruned set again and compare (with --dataset, --embeddings, --scorer …: from there)",
    )
    parser.add_argument(
        "--compare",
        metavar="DIR",
        nargs="+",
        help="print how much pruned sets of one data set have in common; with --output: one report of all",
    )
    args = parser.parse_args()
    _check_arguments(parser, args)
    return args


def _check_arguments(parser, args) -> None:
    if args.compare and len(args.compare) < 2:
        parser.error("--compare needs something to compare with; name two pruned sets or more")
    if args.compare and args.output:
        check_output_folder(args.output, "comparison.json")
    if args.verify or args.compare:
        return
    for name in ("dataset", "method", "output"):
        if getattr(args, name) is None:
            parser.error(f"--{name} is missing")
    if args.size is None and args.method != "full":
        parser.error("--size is missing")
    if args.size is not None and args.size < 1:
        parser.error(f"--size {args.size} is below 1")
    if args.threads is not None and args.threads < 1:
        parser.error(f"--threads {args.threads} is below 1")
    for name, method in ONLY_FOR.items():
        if getattr(args, name) and args.method != method:
            parser.error(f"--{name} has no say in --method {args.method}, only in --method {method}")
    if not 0 <= args.necessity <= 1:
        parser.error(f"--necessity {args.necessity} is not between 0 and 1")
    if args.method == "farthest" and args.embeddings is None and args.embedder is None:
        parser.error("--method farthest needs --embeddings or --embedder")
    check_output_folder(args.output, "manifest.json")


def score(args, samples, folder: Path):
    """Return the scores of every sample; the answers of `--scorer` are kept in `folder`."""
    from llava_mistral.pruning import principles

    if not args.scorer:
        return principles.score(samples.problems)
    from llava_mistral.evaluation.journal import Asked
    from llava_mistral.evaluation.prediction import answer_problems
    from llava_mistral.ground.foreign_code import loading, split_revision
    from llava_mistral.pruning import model_evidence
    from llava_mistral.pruning.workers import pick_device

    pictured = model_evidence.askable(samples.problems, args.dataset)
    scorer, revision = split_revision(args.scorer)
    loading(scorer, revision)
    how = {"images": ("real", "blank"), "folder": folder, "device": pick_device(args.device), "revision": revision}
    answers = answer_problems(scorer, pictured, Asked(scoring="likelihood"), **how)
    told = model_evidence.evidence(
        pictured, *({pid: one.letters for pid, one in answers[of].items()} for of in how["images"])
    )
    return principles.score(samples.problems, told)


def choose(args, samples, scores, processes):
    """Return the choice, and what the report draws of the embedding where there is one."""
    from llava_mistral.pruning import methods

    problems = samples.problems
    pool = [i for i, problem in enumerate(problems) if args.pool == "all" or problem.has_image]
    if args.method == "principles":
        options = {"threshold": args.necessity, "whole_coverage": args.coverage == "images"}
        return methods.by_principles(problems, scores, args.size, **options), None
    if args.method == "random":
        return methods.by_chance(problems, pool, args.size, seed=args.seed, stratified=args.stratified), None
    if args.method == "full":
        return methods.everything(problems, pool, args.size), None
    return vectors_of(args).farthest(samples, pool, args.size, within=args.within, processes=processes)


def vectors_of(args):
    from llava_mistral.pruning.vectors import Vectors

    file = Path(args.embeddings) if args.embeddings else None
    return Vectors(file, args.embedder, args.device, args.threads, args.max_memory)


def read(args):
    """Return (samples, bad samples left out)."""
    from llava_mistral.data.bad_samples import BadSamples
    from llava_mistral.pruning.samples import read_samples

    bad = BadSamples(args.on_bad_sample, args.max_bad_samples)
    names = ("split", "pid_splits", "image_folder", "answer_style", "columns", "check_pictures")
    return read_samples(args.dataset, **{name: getattr(args, name) for name in names}, bad=bad), bad


def prune(args, output: str | Path, processes) -> dict | None:
    """Choose, write `output` whole and return its manifest; all processes but the first write and return nothing."""
    from llava_mistral.pruning import manifest, principles

    samples, bad = read(args)
    if args.method != "farthest" and processes.rank:
        return None
    scores = score(args, samples, Path(f"{args.output or output}.scores"))
    choice, embedding = choose(args, samples, scores, processes)
    if processes.rank:
        return None
    lacks = principles.missing_principles(samples.problems) if args.method == "principles" else []
    told = manifest.describe(
        choice,
        samples.problems,
        recipe={name: getattr(args, name) for name in RECIPE},
        input_sha256=samples.sha256(),
        source=args.source,
        license=args.license,
        notes=[f"not judged by {lack}" for lack in lacks],
        skipped=len(bad.listed),
    )
    write(args, output, told, samples, choice, scores, embedding, bad)
    if choice.cost:
        print(f"{args.method}: {choice.cost}")
    return told


def write(args, output, told, samples, choice, scores, embedding, bad) -> None:
    from llava_mistral.pruning import manifest
    from llava_mistral.pruning import selection_report as report
    from llava_mistral.pruning.output import DATA_FILE, write_llava_json, write_rows

    with whole_folder(output, manifest.NAME) as folder:
        if samples.pictures:
            table = samples.rows(choice.picks)
            write_rows(table, folder / DATA_FILE, source=args.dataset)
            if args.llava_json:
                write_llava_json(table, folder, source=args.dataset)
        bad.write(folder)
        report.write_report(folder, told, samples, choice, scores, embedding)
        manifest.write_manifest(told, folder)
    if not samples.pictures:
        print(f"{args.dataset}: the pictures are not at hand; wrote the manifest and the report without the rows")


def verify(args) -> int:
    """Make the set again beside it and compare; 0 when nothing differs."""
    from llava_mistral.pruning import manifest
    from llava_mistral.pruning.workers import Processes

    told = manifest.read_manifest(args.verify)
    missing = [name for name in RECIPE if name not in told["recipe"]]
    if missing:
        problem = f"lacks {', '.join(missing)}"
        raise BadInput(problem, remedy="make the set again", file=Path(args.verify) / manifest.NAME, field="recipe")
    differences = [f"{name}: {change}" for name, change in manifest.changed_files(Path(args.verify)).items()]
    for name in RECIPE:
        given = getattr(args, name) if name in manifest.PLACES else None
        setattr(args, name, given or told["recipe"][name])
    args.source, args.license = told["source"], told["license"]  # a folder that moved would give another name
    if not differences:
        with tempfile.TemporaryDirectory() as folder:
            there = args.embeddings and Path(args.embeddings).is_file()
            spare = "embedder" if there else "embeddings" if args.embedder else None
            needed = {name: getattr(args, name) for name in manifest.PLACES if name != spare}
            manifest.check_places(args.verify, needed)
            if args.embeddings and spare == "embeddings":
                args.embeddings = str(Path(folder) / "embeddings.npy")
            prune(args, Path(folder) / "again", Processes())
            differences = manifest.differences(Path(args.verify), Path(folder) / "again")
    for line in differences:
        print(f"{args.verify}: {line}")
    if not differences:
        print(f"{args.verify}: comes out the same, byte for byte")
    return 1 if differences else 0


def compare(args) -> None:
    """Print what each set is and what each two have in common; with `--output` write one report of all."""
    from llava_mistral.pruning import compared_sets as comparison

    told = comparison.read_sets(args.compare)
    print("\n".join(comparison.lines(told)))
    if not args.output:
        return
    made_by = next(iter(told.values()))["recipe"]
    for name in READING:
        given = getattr(args, name) if name in ("dataset", "pid_splits", "image_folder") else None
        setattr(args, name, given or made_by[name])
    samples, _ = read(args)
    selections = comparison.selections_of(samples, told)
    scores = score(args, samples, Path(f"{args.output}.scores"))
    used = [of["recipe"]["embeddings"] for of in told.values() if of["recipe"]["embeddings"]]
    args.embeddings = args.embeddings or next((path for path in used if Path(path).is_file()), None)
    embedding = comparison.embedding_of(vectors_of(args), samples, selections) if args.embeddings else None
    with whole_folder(args.output, comparison.NAME) as folder:
        comparison.write_comparison(folder, told, samples, selections, scores, embedding)
    print(Path(args.output) / "report.html")


def main() -> int | None:
    args = parse_arguments()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if args.compare:
        return compare(args)
    if args.verify:
        return verify(args)
    from llava_mistral.pruning.workers import processes

    with processes() as group:
        told = prune(args, args.output, group)
    if told is not None:
        say(args, told)
    return None


def say(args, told: dict) -> None:
    """Print what was kept, what it covers, how many were dropped for which reason, and what could not be judged."""
    pool = 1 if args.method == "principles" or args.pool == "images" else 2
    covered = ", ".join(f"{level} {of[0]}/{of[pool]}" for level, of in told["coverage"].items() if of[pool])
    print(
        f"{args.output}: kept {told['size']:,} of {told['input']['rows']:,}"
        + (f"; covers {covered}" if covered else "")
    )
    if told["input"]["skipped"]:
        print(f"{args.output}: left out {told['input']['skipped']:,} bad samples, see skipped.json")
    for reason, count in told["counts"].items():
        print(f"  {count:>8,}  {reason}")
    for note in told["notes"]:
        print(f"  {note}")


if __name__ == "__main__":
    run_verb(main)
