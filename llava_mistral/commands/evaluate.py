"""Score answers to questions about pictures: from a file of predictions, or by asking a checkpoint.

llava-mistral evaluate --problems llava_test_CQM-A.json --predictions predictions.json
llava-mistral evaluate --model checkpoints/finetune --dataset ScienceQA --split test --output results
llava-mistral evaluate --model checkpoints/mine --dataset my_set --columns question=ask,answer=label --output results

Questions with choices are read by their letters, in ScienceQA's nine columns where the data has them. All other rows
have an answer in words, which --match compares.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder
from llava_mistral.ground.foreign_code import add_flag, origin
from llava_mistral.ground.hub_access import reach_hub
from llava_mistral.ground.whole_file import write_whole


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = VerbParser(prog="llava-mistral evaluate", about=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--problems", metavar="PATH", help="problems.json or LLaVA's llava_test_CQM-A.json")
    source.add_argument("--dataset", metavar="PATH_OR_ID", help="data in any format that training accepts")
    answers = parser.add_mutually_exclusive_group(required=True)
    answers.add_argument("--predictions", metavar="FILE", help="{results: {pid: index}} and/or {outputs: {pid: text}}")
    answers.add_argument("--model", metavar="CHECKPOINT", help="a checkpoint folder or a Hub id")
    parser.add_argument("--pid_splits", metavar="FILE", help="ids by split; a folder's own is found automatically")
    parser.add_argument("--split", help="which split to score; with --model the test split, else the whole source")
    parser.add_argument("--output", metavar="DIR", help="write summary.json, predictions.json, pages and chart there")
    parser.add_argument("--columns", metavar="OURS=THEIRS,…", help="names of the data's columns, as in training")
    parser.add_argument("--dataset_config", metavar="NAME", help="configuration of a data set that has several")
    parser.add_argument("--image_folder", action="append", metavar="DIR", help="folder that the pictures lie below")
    parser.add_argument(
        "--match",
        metavar="RULE",
        help="letters, exact, normalised, numeric, yes_no, f1 or regex:PATTERN (its first group is the answer); by "
        "default letters where the data has choices, else normalised",
    )
    parser.add_argument("--group_by", metavar="COLUMN", help="score each value of this column by itself, too")
    parser.add_argument(
        "--read", choices=["results", "outputs"], help="which predictions to score, where both are given"
    )
    parser.add_argument("--allow_missing", action="store_true", help="score problems without a prediction as wrong")
    asking = parser.add_argument_group("generating answers")
    asking.add_argument(
        "--images", nargs="+", choices=["real", "blank"], default=["real"], help="blank: mid-grey pictures"
    )
    asking.add_argument("--scoring", choices=["generated", "likelihood"], default="generated", help="what is scored")
    asking.add_argument("--max_new_tokens", type=int, default=16, help="longest answer; explained answers need 512")
    asking.add_argument("--batch_size", type=int, default=32, help="questions in a batch")
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
    if options.model:
        reach_hub(options.model, field="model")
    return ask(options) if options.model else score_file(options)


def questions(options: argparse.Namespace) -> tuple[list, dict[str, str] | None, "Match | None"]:  # noqa: F821
    """Return (what is asked, {pid: group}, the rule for answers in words or None for letters)."""
    from llava_mistral.evaluation.matching import match_of
    from llava_mistral.evaluation.questions import LETTERED, Question, check_questions, held_out_split, read_questions

    source = options.problems or options.dataset
    rule = match_of("normalised" if options.match in (None, LETTERED) else options.match)
    if options.model and options.split is None:
        options.split = held_out_split(source, options.dataset_config)
    asked, groups = read_questions(
        source,
        split=options.split,
        match=options.match,
        columns=options.columns,
        group_by=options.group_by,
        image_folder=options.image_folder,
        dataset_config=options.dataset_config,
        pid_splits=options.pid_splits,
    )
    if not isinstance(asked[0], Question):
        return asked, groups, None
    check_questions(asked, rule, source)
    return asked, groups, rule


def score_file(options: argparse.Namespace) -> None:
    """Score a file of predictions."""
    from llava_mistral.evaluation.results import ground_truth, summarise
    from llava_mistral.evaluation.scoring import UNREAD, choose, read_predictions
    from llava_mistral.evaluation.words_results import texts_from, words_summary

    check_output(options)
    predictions = read_predictions(options.predictions)
    asked, groups, rule = questions(options)
    if rule:
        missing = options.allow_missing
        texts = texts_from(asked, predictions.outputs, file=options.predictions, allow_missing=missing)
        found = {"real": words_summary(asked, texts, rule, groups, group_by=options.group_by, **facts(options))}
    else:
        read = options.read or ("results" if predictions.results else "outputs")
        file, missing = options.predictions, options.allow_missing
        answers = choose(asked, predictions, file=file, read=read, allow_missing=missing)
        texts = predictions.outputs or None
        grouping = {"groups": groups, "group_by": options.group_by}
        summary = summarise(asked, answers, texts=texts, **grouping, scoring=read, **facts(options))
        results = {pid: UNREAD if index is None else index for pid, index in answers.choices.items()}
        outputs = {pid: text for pid, text in predictions.outputs.items() if pid in results}
        found = {"real": (summary, {"results": results, "outputs": outputs, **ground_truth(asked)})}
    show(found, options)
    if options.output:
        with whole_folder(options.output, "summary.json") as folder:
            save(found, asked, folder, options)


def ask(options: argparse.Namespace) -> None:
    """Ask a checkpoint and score its answers: with the real pictures, with blank ones, or both."""
    from llava_mistral.evaluation.asking import check_checkpoint
    from llava_mistral.evaluation.journal import AnswerSettings
    from llava_mistral.evaluation.prediction import answer_problems
    from llava_mistral.evaluation.results import blank_text
    from llava_mistral.ground.checkpoint_headers import computing_type
    from llava_mistral.ground.devices import pick_device

    check_output(options)
    if options.device:
        pick_device(options.device)
    check_checkpoint(options.model)
    origin(options.model, options.revision)
    asked, groups, rule = questions(options)
    if rule and options.scoring == "likelihood":
        problem, remedy = "free-text answers have no letters", "leave it out, or name the column of the choices"
        raise BadInput(problem, remedy=remedy, field="scoring")
    how = AnswerSettings(
        options.scoring,
        options.max_new_tokens,
        template(options.chat_template),
        options.batch_size,
        rule.name if rule else None,
    )
    answers = answer_problems(
        options.model,
        asked,
        how,
        images=sorted(set(options.images), reverse=True),  # real before blank, which takes over what is the same
        folder=Path(options.output) if options.output else None,
        device=options.device,
        revision=options.revision,
    )
    details = {
        "group_by": options.group_by,
        "dtype": computing_type(options.model, options.revision),
        **facts(options),
    }
    found = {
        images: judged_answers(asked, own, how, rule, groups, {"images": images, **details})
        for images, own in answers.items()
    }
    show(found, options)
    if options.output:
        save(found, asked, Path(options.output), options)
    if len(found) == 2:
        print(blank_text(asked, *(found[images][1] for images in ("real", "blank"))))


def judged_answers(asked, answers, how, rule, groups, details: dict) -> tuple[dict, dict]:
    """Return (summary, predictions) of a checkpoint's answers, lettered or in words."""
    from llava_mistral.evaluation.results import answered_summary
    from llava_mistral.evaluation.words_results import prompt_hash, texts_of, words_summary

    if rule is None:
        return answered_summary(asked, answers, how, groups=groups, **details)
    details = {**details, **how.header()}
    details["prompt_hash"] = prompt_hash(asked, details)
    return words_summary(asked, texts_of(asked, answers), rule, groups, **details)


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
    sources = [getattr(options, name, None) for name in ("predictions", "problems", "pid_splits", "dataset")]
    check_output_folder(folder, "predictions.jsonl" if options.model else "summary.json", sources)


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
    """Print the tables, and what a reader should be warned of."""
    from llava_mistral.data.scienceqa import COLUMNS
    from llava_mistral.evaluation.results import cell_text, counts_text, readers_text
    from llava_mistral.evaluation.scoring import table
    from llava_mistral.evaluation.words_results import groups_text, words_text

    for images, (summary, _) in found.items():
        shown = [column for column in COLUMNS if summary.get(column)]
        print(f"\n{options.model or options.predictions}: {summary['scoring']}, {images} pictures")
        print(f"{words_text(summary) if 'match' in summary else table(summary, shown)}\n{counts_text(summary)}")
        if summary.get("readers"):
            print(readers_text(summary))
        if summary["groups"]:
            print(groups_text(summary))
        if summary.get("likelihood") and summary["scoring"] == "generated":
            print(f"scored by choice likelihood instead: {cell_text(summary['likelihood']['ALL'])}")
        for line in summary["warnings"]:
            print(f"warning: {line}")


def save(found: dict[str, tuple[dict, dict]], asked: list, folder: Path, options: argparse.Namespace) -> None:
    """Write summaries, predictions, a page of answers and, where matplotlib is there to draw it, the chart."""
    from llava_mistral.evaluation.prediction import run_folder
    from llava_mistral.evaluation.results import answers_to_look_at, write_results

    name = Path(options.model or options.predictions).name
    for images, (summary, predictions) in found.items():
        write_results(run_folder(folder, images), summary, predictions)
        page = answers_to_look_at(asked, predictions, summary, images, title=f"{name}: answers, {images} pictures")
        write_whole(run_folder(folder, images) / "answers.html", page)
    if find_spec("matplotlib") is None:
        print("no chart.png: matplotlib is not installed; pip install matplotlib and run the same command again")
    else:
        from llava_mistral.evaluation.charts import columns_chart

        series = {f"{images} pictures": summary for images, (summary, _) in found.items()}
        columns_chart(series, folder / "chart.png", title=f"{name}: accuracy by kind of question")
    print(f"wrote {options.output}; open {Path(options.output) / 'answers.html'}")


if __name__ == "__main__":
    run_verb(main)
