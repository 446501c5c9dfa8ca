"""The flags of `llava-mistral prune`, in three groups: data, method, output."""

from collections.abc import Callable

from llava_mistral.pruning.recipe import METHODS


def add_data(add: Callable) -> None:
    """Add the flags that name the data."""
    add("--dataset", help="ScienceQA folder, problems.json, LLaVA JSON, datasets folder or Hub id")
    add("--split", help="split to choose from, which must exist; by default train, or the only one")
    add("--dataset_config", help="configuration of a data set that has several")
    add("--pid_splits", help="ScienceQA's pid_splits.json, where it does not lie beside problems.json")
    add("--image_folder", action="append", help="folder that the pictures lie below; may be given several times")
    conversations = "choose whole conversations, or each of their answers by itself (--choose answers)"
    names, kinds = ("--conversations", "--choose"), ["whole", "answers"]
    add(*names, type=_sample_kind, choices=kinds, default="whole", help=conversations)
    add("--pool", choices=["all", "images"], default="all", help="choose from all samples or pictured ones")
    columns = "columns of a datasets folder or Hub id: question=theirs,choices=theirs,answer=theirs,…"
    add("--columns", help=columns)
    checks = "before choosing, decode every picture, look at its header, or leave bad ones to be met later"
    add("--check_pictures", choices=["full", "header", "none"], default="full", help=checks)
    skip = "skip: left out, listed in skipped.json"
    add("--on_bad_sample", choices=["error", "skip"], default="error", help=skip)
    add("--max_bad_samples", type=float, default=0.01, help="share of skipped samples that is refused")


def _sample_kind(text: str) -> str:
    return "whole" if text == "conversations" else text


def add_method(add: Callable) -> None:
    """Add the flags of the selection method."""
    add("--method", choices=METHODS)
    add("--size", help="how many samples to keep: 1000, 1e3, or a share of all such as 10%% or 0.1 (full: all)")
    add("--seed", type=int, default=0, help="random seed, also used to break ties")
    add("--necessity", type=float, default=0.5, help="principles: score from which an image counts as needed")
    cover = "principles: cover the labels of all pictured samples, or only of those whose image is needed"
    add("--coverage", choices=["images", "fitting"], default="images", help=cover)
    scorer = "principles: checkpoint folder or OWNER/NAME@COMMIT to ask whether it needs the picture; its answers are "
    add("--scorer", help=scorer + "kept in OUTPUT.scores")
    add("--stratified", action="store_true", help="random: evenly over the skills")
    within = "farthest: give every such label its fair share of the size"
    add("--within", choices=["subject", "topic", "category", "skill"], help=within)
    outliers = (
        "farthest, clusters: first drop this share of outliers, the samples whose 10th nearest neighbour is farthest"
    )
    add("--drop_outliers", type=float, default=0.0, metavar="SHARE", help=outliers)
    add("--clusters", type=int, help="clusters: number of clusters, each giving an even share; default 50")
    add("--embeddings", help="farthest, clusters: .npy file, a float16 or float32 row per sample, in order")
    embedder = "farthest: CLIP-like model or LLaVA checkpoint that makes the vectors, kept in --embeddings"
    add("--embedder", help=embedder)
    add("--device", help="torch device, such as cuda:0; default: the GPU where there is one")
    add("--threads", type=int, help="farthest: worker threads; default: all cores")
    add("--max_memory", help="farthest: resident memory to stay within, such as 1GB")


def add_output(add: Callable) -> None:
    """Add the flags of the output."""
    add("--output", help="folder to write")
    add("--answer_style", choices=["letter", "explained"], default="letter", help="wording of the answer")
    add("--llava_json", action="store_true", help="write the rows as LLaVA JSON too")
    dry = "list all faults of the data by kind, with counts and the first records; write nothing"
    add("--dry_run", action="store_true", help=dry)
    add("--source", help="where the data comes from, for the manifest and the card")
    add("--license", help="its licence, such as cc-by-4.0")
