"""Score answers to ScienceQA questions in its nine columns: from a file of predictions, or by asking a checkpoint.

llava-mistral evaluate --problems llava_test_CQM-A.json --predictions predictions.json
llava-mistral evaluate --model checkpoints/finetune --dataset ScienceQA --split test --output results
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder
from llava_mistral.ground.foreign_code import add_flag, origin


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = VerbParser(prog="llava-mistral evaluate", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--problems", metavar="PATH", help="problems.json or LLaVA's llava_test_CQM-A.json")
    source.add_argument("--dataset", metavar="PATH_OR_ID", help="a ScienceQA folder, a `datasets` folder or a Hub id")
    answers = parser.add_mutually_exclusive_group(required=True)
    answers.add_argument("--predictions", metavar="FILE", help="{results: {pid: index}} and/or {outputs: {pid: text}}")
    answers.add_argument("--model", metavar="CHECKPOINT", help="a checkpoint folder or a Hub id")
    parser.add_argument("--pid_splits", metavar="FILE", help="ids by split; a folder's own is found by itself")
    parser.add_argument("--columns", help="columns of a table: question=theirs,choices=theirs,answer=theirs,…")
    parser.add_argument("--dataset_config", metavar="NAME", help="configuration of a data set that has several")
    parser.add_argument("--image_folder", action="append", metavar="DIR", help="folder that the pictures lie below")
    parser.add_argument("--split", help="which split to score; with --model test, else every problem of the source")
    parser.add_argument("--output", metavar="DIR", help="write summary.json, predictions.json and chart.png there")
    parser.add_argument(
        "--read", choices=["results", "outputs"], help="which predictions to score, where both are given"
    )
    parser.add_argument("--allow_missing", action="store_true", help="score problems without a prediction as wrong")
    asking = parser.add_argument_group("asking a checkpoint")
    asking.add_argument(
        "--images", nargs="+", choices=["real", "blank"], default=["real"], help="blank: mid-grey pictures"
    )
    asking.add_argument("--scoring", choices=["generated", "likelihood"], default="generated", help="what is scored")
    asking.add_argument("--max_new_tokens", type=int, default=16, help="longest answer; explained answers need 512")
    asking.add_argument("--batch_size", type=int, default=32, help="questions asked at once")
    asking.add_argument(
        "--chat_template", metavar="FILE", help="a Jinja file instead of the checkpoint's own template"
    )
    asking.add_argument("--device", help="cpu, cuda, cuda:1, …; by default a GPU where there is one")
    asking.add_argument("--revision", help="branch, tag or commit of the checkpoint on the Hub")
    add_flag(asking)
    options = parser.parse_args(arguments)
    for name in ("max_new_tokens", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)} is not positive; give 1 or more")
    return options


def main() -> int | None:
    options = parse_arguments()
    return ask(options) if options.model else score_file(options)


def score_file(options: argparse.Namespace) -> None:
    """Score a file of predictions."""
    from llava_mistral.evaluation.results import ground_truth, summarise
    from llava_mistral.evaluation.scoring import UNREAD, choose, read_predictions

    check_output(options)
    predictions = read_predictions(options.predictions)
    problems = problems_of(options)
    read = options.read or ("results" if predictions.results else "outputs")
    answers = choose(problems, predictions, file=options.predictions, read=read, allow_missing=options.allow_missing)
    summary = summarise(problems, answers, texts=predictions.outputs or None, scoring=read, **facts(options))
    results = {pid: UNREAD if index is None else index for pid, index in answers.choices.items()}
    outputs = {pid: text for pid, text in predictions.outputs.items() if pid in results}
    found = {"real": (summary, {"results": results, "outputs": outputs, **ground_truth(problems)})}
    show(found, options)
    if options.output:
        with whole_folder(options.output, "summary.json") as folder:
            save(found, folder, options)


def ask(options: argparse.Namespace) -> None:
    """Ask a checkpoint and score its answers: with the real pictures, with blank ones, or both."""
    from llava_mistral.evaluation.asking import check_checkpoint
    from llava_mistral.evaluation.journal import Asked
    from llava_mistral.evaluation.prediction import answer_problems
    from llava_mistral.evaluation.results import answered_summary, blank_text
    from llava_mistral.ground.checkpoint_headers import computing_type

    check_output(options)
    check_checkpoint(options.model)
    origin(options.model, options.revision)
    asked = Asked(options.scoring, options.max_new_tokens, template(options.chat_template), options.batch_size)
    options.split = options.split or "test"
    problems = problems_of(options)
    answers = answer_problems(
        options.model,
        problems,
        asked,
        images=sorted(set(options.images), reverse=True),  # real before blank, which takes over what is the same
        folder=Path(options.output) if options.output else None,
        device=options.device,
        revision=options.revision,
    )
    dtype = computing_type(options.model, options.revision)
    found = {
        images: answered_summary(problems, answers[images], asked, images=images, dtype=dtype, **facts(options))
        for images in answers
    }
    show(found, options)
    if options.output:
        save(found, Path(options.output), options)
    if len(found) == 2:
        print(blank_text(problems, *(found[images][1]["results"] for images in ("real", "blank"))))


def problems_of(options: argparse.Namespace) -> "list[Problem]":  # noqa: F821
    """Return the problems that the options name."""
    from llava_mistral.data.scienceqa import read_problems

    names = ("split", "pid_splits", "columns", "dataset_config", "image_folder")
    return read_problems(options.dataset or options.problems, **{name: getattr(options, name) for name in names})


def check_output(options: argparse.Namespace) -> None:
    """Refuse an output folder that holds something else than earlier results of the same kind."""
    if not options.output:
        return
    folder = Path(options.output)
    asked = any((part / "predictions.jsonl").is_file() for part in (folder, folder / "blank"))
    if asked and options.model:
        return
    if asked:
        problem = "the output folder holds the answers of a checkpoint"
        raise BadInput(problem, remedy="name another folder", file=folder, field="output")
    check_output_folder(folder, "predictions.jsonl" if options.model else "summary.json")


def template(path: str | None) -> str | None:
    """Return the text of a chat template file."""
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("cannot be read", remedy="name a Jinja file", file=path, field="chat_template") from error


def facts(options: argparse.Namespace) -> dict[str, str | None]:
    """Return what was scored on what, for summary.json."""
    return {
        "model": options.model,
        "predictions": options.predictions,
        "dataset": options.dataset or options.problems,
        "split": options.split,
    }


def show(found: dict[str, tuple[dict, dict]], options: argparse.Namespace) -> None:
    """Print the tables."""
    from llava_mistral.evaluation.results import cell_text, counts_text, readers_text
    from llava_mistral.evaluation.scoring import table

    for images, (summary, _) in found.items():
        print(f"\n{options.model or options.predictions}: {summary['scoring']}, {images} pictures")
        print(f"{table(summary)}\n{counts_text(summary)}")
        if summary["readers"]:
            print(readers_text(summary))
        if summary["scoring"] == "generated":
            print(f"scored by choice likelihood instead: {cell_text(summary['likelihood']['ALL'])}")


def save(found: dict[str, tuple[dict, dict]], folder: Path, options: argparse.Namespace) -> None:
    """Write summaries, predictions and, where matplotlib is there to draw it, the chart."""
    from llava_mistral.evaluation.prediction import run_folder
    from llava_mistral.evaluation.results import write_results

    for images, (summary, predictions) in found.items():
        write_results(run_folder(folder, images), summary, predictions)
    if find_spec("matplotlib") is None:
        print("no chart.png: matplotlib is not installed; pip install matplotlib and run the same command again")
        return
    from llava_mistral.evaluation.charts import columns_chart

    series = {f"{images} pictures": summary for images, (summary, _) in found.items()}
    title = f"{Path(options.model or options.predictions).name}: accuracy by kind of question"
    columns_chart(series, folder / "chart.png", title=title)
    print(Path(options.output) / "chart.png")


if __name__ == "__main__":
    run_verb(main)
