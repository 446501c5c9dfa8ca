"""Compare models on the same questions, from the results folders that llava-mistral evaluate wrote.

llava-mistral compare mistral=results/mistral llama=results/llama --output comparison
llava-mistral compare mistral=results/mistral llama=results/llama --efficiency --output comparison
llava-mistral compare m=r/m0 m=r/m1 m=r/m2 l=r/l0 l=r/l1 l=r/l2 --output comparison
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from llava_mistral.data.scienceqa import COLUMNS
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = VerbParser(prog="llava-mistral compare", about=__doc__)
    parser.add_argument(
        "results", nargs="+", metavar="[NAME=]FOLDER", help="results folders; one NAME's are its seeds"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="write comparison.json, chart.png, report.html there"
    )
    parser.add_argument("--column", choices=COLUMNS, help="whose differences to test; ALL, or IMG with --reference")
    parser.add_argument("--reference", action="store_true", help="add the published bars of the study this repeats")
    parser.add_argument(
        "--efficiency", action="store_true", help="measure memory and speed of the compared checkpoints, too"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="prompts at a time, for that")
    parser.add_argument("--title", default="Models on the same questions", help="headline of chart and report")
    options = parser.parse_args(arguments)
    if min(options.batch_sizes) < 1:
        parser.error(f"--batch_sizes {min(options.batch_sizes)} is not positive; give 1 or more")
    return options


def main() -> int | None:
    options = parse_arguments()
    folders = [folder for group in named(options.results).values() for folder in group]
    check_output_folder(options.output, "comparison.json", folders)
    from llava_mistral.evaluation.comparison import bars, compare, read_run, sentences
    from llava_mistral.evaluation.report import comparison_page
    from llava_mistral.ground.strict_json import write_json

    groups = {name: [read_run(folder) for folder in folders] for name, folders in named(options.results).items()}
    column = options.column or ("IMG" if options.reference else "ALL")
    comparison = compare(groups, column, reference=options.reference)
    if options.efficiency:
        from llava_mistral.evaluation.efficiency import efficiency

        comparison["efficiency"] = efficiency(checkpoints(groups), options.batch_sizes)
    with whole_folder(options.output, "comparison.json") as folder:
        chart = None
        if find_spec("matplotlib") is not None:
            from llava_mistral.evaluation.charts import models_chart

            chart = folder / "chart.png"
            models_chart(bars(comparison), chart, title=options.title, chance=comparison["chance"])
        else:
            print("no chart.png: matplotlib is not installed; pip install matplotlib and run the same command again")
        (folder / "report.html").write_text(comparison_page(comparison, chart, title=options.title), encoding="utf-8")
        write_json(folder / "comparison.json", comparison)
    for bar in bars(comparison):
        print(f"{bar.name}: {bar.accuracy:.2f} % (95 % {bar.low:.2f} to {bar.high:.2f}; n = {bar.n:,})")
    print("\n".join(sentences(comparison)))
    print(f"wrote {options.output}; open {Path(options.output) / 'report.html'}")


def named(results: list[str]) -> dict[str, list[str]]:
    """Return {name: folders} of the arguments; a folder without a name is called by its path.

    Raises:
        BadInput: there is only one model.
    """
    groups: dict[str, list[str]] = {}
    for argument in results:
        name, _, folder = argument.rpartition("=")
        groups.setdefault(name or str(Path(folder)), []).append(folder)
    if len(groups) < 2:
        names = ", ".join(groups)
        raise BadInput(f"one model cannot be compared ({names})", remedy="name two, as NAME=FOLDER", field="results")
    return groups


def checkpoints(groups: dict[str, list["Run"]]) -> dict[str, str]:  # noqa: F821
    """Return {name: checkpoint of its first run}.

    Raises:
        BadInput: a result was scored from a file, so there is no checkpoint to measure.
    """
    models = {name: runs[0].summary.get("model") for name, runs in groups.items()}
    for name, model in models.items():
        if not model:
            remedy = "leave out --efficiency, or evaluate with --model"
            raise BadInput(f"{name} was scored from a file of predictions", remedy=remedy, field="efficiency")
    return models


if __name__ == "__main__":
    run_verb(main)
