"""Farthest-first selection against the plain matrix-vector greedy, side by side, each run in a process of its own.

    python benchmarks/selection.py [--quick] [--repeats 3]

Writes benchmarks/results/selection.json and selection.png (time against N), puts the numbers into docs/pruning.md, and
ends with one line `RESULT {json}`:
`small` and `large` are plain seconds / our seconds (above 1 is better), `slope` that of log time over log N,
`rss_over_file_mb` our peak resident memory less the embedding file, `distances_computed` the fraction of N·k.
Identical picks are part of it. The plain way decides in float32 and takes the wrong pick where two rows are closer
than it can see, one run in two at these sizes; the seeds of the full run are such that it happens to be right on the
machine that wrote the results. Where it is not, the first pick that differs is judged in float64 and put down; the run
fails when ours is not the farther one, or when the two are farther apart than float32 can tell.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result_files import result_file

HOME = Path(__file__).resolve().parent
PAGE = HOME.parent / "docs" / "pruning.md"
FLOAT32_SEES = 1e-5  # of squared distances of about 1 that are summed over 512 to 1,024 terms
BEGIN, END = "<!-- selection:begin -->", "<!-- selection:end -->"
sys.path.insert(0, str(HOME.parent))


def write_embeddings(path: Path, count: int, dimensions: int, dtype: str, seed: int = 0) -> None:
    """Write what an embedding model might: 2,000 clusters, a power-law spectrum, unit norm; (count, dimensions)."""
    rng = np.random.default_rng(seed)
    spectrum = (np.arange(1, dimensions + 1) ** -0.5).astype(np.float32)
    centres = rng.standard_normal((2000, dimensions), dtype=np.float32) * spectrum
    out = np.lib.format.open_memmap(path, "w+", dtype, (count, dimensions))
    for start in range(0, count, 20_000):
        cluster = rng.integers(len(centres), size=min(20_000, count - start))
        rows = rng.standard_normal((len(cluster), dimensions), dtype=np.float32) * (0.6 * spectrum)
        rows += centres[cluster]
        out[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out.flush()


def plain(path: Path, size: int) -> dict:
    """The usual way: float32 in memory, one matrix-vector product per pick."""
    matrix = np.load(path).astype(np.float32)
    begun = time.perf_counter()
    norms = np.einsum("ij,ij->i", matrix, matrix)
    nearest = np.full(len(matrix), np.inf, np.float32)
    picks = [0]
    while len(picks) < size:
        last = picks[-1]
        distances = matrix @ matrix[last]
        distances *= -2
        distances += norms
        distances += norms[last]
        np.minimum(nearest, distances, out=nearest)
        picks.append(int(nearest.argmax()))
    return {"seconds": time.perf_counter() - begun, "picks": picks}


def ours(path: Path, size: int, release: bool = False) -> dict:
    from llava_mistral.pruning.farthest_first import farthest_first
    from llava_mistral.pruning.rows import Rows, open_embeddings

    matrix = open_embeddings(path)
    begun = time.perf_counter()
    selection = farthest_first(Rows(matrix, release=release), size)
    seconds = time.perf_counter() - begun
    measured = {"radius": selection.radius, "minimum_distance": selection.minimum_distance}
    measured |= {"passes": selection.passes, "computed": selection.computed}
    return {"seconds": seconds, "picks": selection.picks.tolist(), **measured}


def ours_in_less_memory(path: Path, size: int) -> dict:
    return ours(path, size, release=True)


WAYS = {way.__name__: way for way in (plain, ours, ours_in_less_memory)}


def peak_rss_mb() -> float:
    """Peak resident memory of this process since it was started (getrusage would count that of its parent too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_apart(way: str, path: Path, size: int) -> dict:
    """Run one way in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--one", way, str(path), str(size)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def against_plain(folder: Path, count: int, dimensions: int, dtype: str, size: int, repeats: int, seed: int) -> dict:
    """Both ways in turn, `repeats` times; medians, and the proof that the picks are the same."""
    path = folder / "embeddings.npy"
    write_embeddings(path, count, dimensions, dtype, seed)
    runs = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in runs:
            runs[way].append(run_apart(way, path, size))
            print(f"{count:,} x {dimensions} {dtype}: {way} {runs[way][-1]['seconds']:.2f} s", flush=True)
    ways = {tuple(run["picks"]) for way in runs for run in runs[way]}
    if len({tuple(run["picks"]) for way in runs if way != "plain" for run in runs[way]}) > 1:
        raise SystemExit(f"{count:,} x {dimensions}: our picks differ between runs")
    same = {"identical_picks": len(ways) == 1}
    same |= {} if len(ways) == 1 else {"first_difference": _first_difference(path, runs)}
    result = {way: _summary(runs[way], path.stat().st_size) for way in runs}
    shape = {"rows": count, "dimensions": dimensions, "dtype": dtype, "size": size, "repeats": repeats}
    path.unlink()
    return shape | same | {"ratio": result["plain"]["seconds"] / result["ours"]["seconds"]} | result


def _first_difference(path: Path, runs: dict[str, list[dict]]) -> dict:
    """Judge in float64 the two picks that differ first, by their squared distance to those before."""
    matrix = np.load(path, mmap_mode="r")
    our_picks = runs["ours"][0]["picks"]
    other = next(run["picks"] for run in runs["plain"] if run["picks"] != our_picks)
    place = next(i for i, (a, b) in enumerate(zip(other, our_picks, strict=True)) if a != b)
    before = matrix[our_picks[:place]].astype(np.float64)
    plainly, ours = (float(np.square(before - matrix[picks[place]]).sum(1).min()) for picks in (other, our_picks))
    record = {"pick": place, "plain": plainly, "ours": ours}
    if ours < plainly or ours - plainly > FLOAT32_SEES:
        raise SystemExit(f"the picks differ, and not because float32 cannot tell them apart: {record}")
    return record


def _summary(runs: list[dict], file_bytes: int) -> dict:
    last = {key: value for key, value in runs[-1].items() if key != "picks"}
    last["seconds"] = statistics.median(run["seconds"] for run in runs)
    last["peak_rss_mb"] = max(run["peak_rss_mb"] for run in runs)
    return last | {"rss_over_file_mb": last["peak_rss_mb"] - file_bytes / 2**20}


def against_rows(folder: Path, counts: list[int], dimensions: int, size: int, repeats: int) -> dict:
    """Seconds for each number of rows, and the slope of the straight line through them on a log-log plot."""
    points = []
    for count in counts:
        path = folder / "embeddings.npy"
        write_embeddings(path, count, dimensions, "float16")
        seconds = statistics.median(run_apart("ours", path, size)["seconds"] for _ in range(repeats))
        points.append([count, seconds])
        print(f"{count:,} x {dimensions} -> {size}: {seconds:.2f} s", flush=True)
        path.unlink()
    slope = float(np.polyfit(*np.log(np.array(points)).T, 1)[0])
    return {"dimensions": dimensions, "size": size, "points": points, "slope": slope}


def draw(scale: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts, seconds = zip(*scale["points"], strict=True)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog(counts, seconds, "o-", label=f"measured, slope {scale['slope']:.2f}")
    axes.loglog(counts, [seconds[-1] * n / counts[-1] for n in counts], "--", color="grey", label="slope 1")
    axes.set(xlabel="rows", ylabel="seconds", title=f"{scale['size']} of N rows, {scale['dimensions']} dimensions")
    axes.legend()
    figure.savefig(path, dpi=120)


def as_markdown(result: dict) -> str:
    """Return what docs/pruning.md says of a run: seconds, memory and distances of each way, and the slope."""
    lines = ["| samples | kept | way | seconds | plain / this | distances computed | peak memory, MB |"]
    lines.append("|---|---|---|---|---|---|---|")
    for case in (result["runs"]["small"], result["runs"]["large"]):
        names = {
            "plain": "plain, float32",
            "ours": "this",
            "ours_in_less_memory": "this, `--max_memory` below the file",
        }
        for way, name in names.items():
            run = case[way]
            what = f"{case['rows']:,} x {case['dimensions']:,} {case['dtype']} | {case['size']:,} | {name}"
            ratio = case["plain"]["seconds"] / run["seconds"]
            computed = f"{run.get('computed', 1):.2f} N k"
            lines.append(f"| {what} | {run['seconds']:.2f} | {ratio:.1f} | {computed} | {run['peak_rss_mb']:,.0f} |")
    scale, made_by = result["runs"]["scale"], result["made_by"]
    counts = f"{scale['points'][0][0]:,} to {scale['points'][-1][0]:,}"
    differing = [case for case in result["runs"].values() if not case.get("identical_picks", True)]
    verdict = "Both ways pick the same samples" if not differing else "The plain way errs where float32 cannot decide"
    lines += [
        "",
        f"{verdict}. The larger file is read {result['runs']['large']['ours']['passes']} times, not once per pick.",
    ]
    lines.append(
        f"Time grows as N to the power {scale['slope']:.2f} from {counts} samples of {scale['dimensions']} numbers."
    )
    lines.append(f"Measured on {made_by['cores']} cores ({made_by['machine']}), NumPy {made_by['numpy']}.")
    return "\n".join(lines)


def put_into(page: str, text: str) -> str:
    """Return the page with `text` between its markers."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller matrices, under a minute")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "FILE", "SIZE"), help="run one way and print its JSON")
    args = parser.parse_args()
    if args.one:
        way, path, size = args.one
        print(json.dumps(WAYS[way](Path(path), int(size)) | {"peak_rss_mb": peak_rss_mb()}))
        return
    repeats = 1 if args.quick else args.repeats
    with tempfile.TemporaryDirectory() as folder:
        small = against_plain(Path(folder), 12_726, 1024, "float32", 1000, repeats, seed=1)
        rows, size = (300_000, 400) if args.quick else (558_000, 1000)
        large = against_plain(Path(folder), rows, 512, "float16", size, repeats, seed=0)
        powers = np.linspace(4, 5 if args.quick else 6, 3 if args.quick else 5)
        scale = against_rows(Path(folder), [int(10**p) for p in powers], 256, size, repeats)
    summary = {
        "small": round(small["ratio"], 2),
        "large": round(large["ratio"], 2),
        "slope": round(scale["slope"], 3),
        "rss_over_file_mb": math.ceil(large["ours"]["rss_over_file_mb"]),
        "distances_computed": round(large["ours"]["computed"], 3),
    }
    made_by = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    made_by |= {"cores": len(os.sched_getaffinity(0)), "quick": args.quick}
    everything = summary | {"runs": {"small": small, "large": large, "scale": scale}, "made_by": made_by}
    result_file("selection.json", args.quick).write_text(json.dumps(everything, indent=1) + "\n")
    draw(scale, result_file("selection.png", args.quick))
    if not args.quick:
        PAGE.write_text(put_into(PAGE.read_text(encoding="utf-8"), as_markdown(everything)), encoding="utf-8")
    print(f"RESULT {json.dumps(summary)}")


if __name__ == "__main__":
    main()
