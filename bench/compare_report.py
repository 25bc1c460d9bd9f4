"""Prints the table of bench/compare.sh from the results in a folder: medians over the rounds, ratios round by round."""
import json
import pathlib
import statistics
import sys

folder = pathlib.Path(sys.argv[1])


def benchmarks(kind, threads, round_number):
    runs = json.loads((folder / f"{kind}-{threads}-{round_number}.json").read_text())["benchmarks"]
    return {r["name"].removesuffix("/real_time"): r for r in runs}


rates = {}
rows = []
for threads in (2, 1):
    count = len(list(folder.glob(f"torch-{threads}-*.json")))
    for i in range(1, count + 1):
        gram, solve = benchmarks("gram", threads, i), benchmarks("solve", threads, i)
        torch = json.loads((folder / f"torch-{threads}-{i}.json").read_text())
        gemm = gram["gemm/4096"]["FLOP/s"]
        rates.setdefault(threads, []).append(gemm)
        ours = solve["solve/minmax_natural/out:4096/in:4096"]
        rows.append((threads, i, gemm, {
            "gemm 4096, GFLOP/s": gemm / 1e9,
            "gram 4096 / gemm": gram["gram/float/in:4096/tokens:2048"]["FLOP/s"] / gemm,
            "factor 4096 / gemm": solve["factor/in:4096"]["FLOP/s"] / gemm,
            "solve 4096 x 4096, s": ours["real_time"] / 1e3,
            "solve, default settings, s": solve["solve/defaults/out:4096/in:4096"]["real_time"] / 1e3,
            "solve time / bound at gemm rate": gemm / ours["FLOP/s"],
            "torch procedure, s": torch["solve_s"],
            "torch / ours": torch["solve_s"] / (ours["real_time"] / 1e3),
        }))
print(f"torch {torch['torch']}")
for threads in (2, 1):
    mine = [r for r in rows if r[0] == threads]
    best = max(rates[threads])
    slow = [str(i) for _, i, gemm, _ in mine if gemm < 0.9 * best]
    print(f"\n{threads} threads, {len(mine)} rounds" + (f"; rounds {', '.join(slow)} ran on a busy machine" if slow else ""))
    for key in mine[0][3]:
        values = [r[3][key] for r in mine]
        print(f"  {key:34s} median {statistics.median(values):9.3f}   ({min(values):.3f} to {max(values):.3f})")
