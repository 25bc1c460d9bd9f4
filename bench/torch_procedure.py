"""The published GPTQ procedure as Python tools run it, to compare with: three factorizations, one column at a time.

    torch_procedure.py --threads 2 --shape 4096x4096 --repeat 3

Prints one JSON object: seconds of factor and column loop given the Hessian, 4 bit, groups of 128, symmetric, min-max,
natural order, blocks of 128 columns, float32.
"""
import argparse
import json
import time

import torch


def upper_factor_of_inverse(hessian, damp=0.01):
    h = hessian.clone()
    h.diagonal().add_(damp * h.diagonal().mean())
    lower = torch.linalg.cholesky(h)
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


def quantize_columns(weight, factor, group=128, block=128, top=15):
    w, result = weight.clone(), torch.empty_like(weight)
    columns = w.shape[1]
    for begin in range(0, columns, block):
        end = min(begin + block, columns)
        part, errors = w[:, begin:end].clone(), torch.empty(w.shape[0], end - begin)
        u = factor[begin:end, begin:end]
        for j in range(end - begin):
            if (begin + j) % group == 0:
                reach = w[:, begin + j : begin + j + group].abs().amax(dim=1, keepdim=True).clamp_(min=1e-8)
                scale = 2 * reach / top
            x = part[:, j : j + 1]
            q = scale * (torch.clamp(torch.round(x / scale) + 8, 0, top) - 8)
            result[:, begin + j] = q[:, 0]
            error = (x - q) / u[j, j]
            part[:, j:] -= error @ u[j : j + 1, j:]
            errors[:, j] = error[:, 0]
        w[:, end:] -= errors @ factor[begin:end, end:]
    return result


def seconds(f):
    begin = time.perf_counter()
    result = f()
    return time.perf_counter() - begin, result


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--shape", default="4096x4096")
    args.add_argument("--repeat", type=int, default=3)
    o = args.parse_args()
    torch.set_num_threads(o.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    out, columns = map(int, o.shape.split("x"))
    x = (torch.randn(2 * columns, 1) * 0.5 + torch.randn(2 * columns, columns)) * (0.5 + torch.arange(columns) % 37 / 20)
    hessian, weight = x.T @ x * (2 / x.shape[0]), torch.randn(out, columns) * 0.02
    a = torch.randn(2048, 2048)
    gemm = min(seconds(lambda: a @ a)[0] for _ in range(5))
    quantize_columns(weight[:64, :256], upper_factor_of_inverse(hessian[:256, :256]))  # warm up
    factor_times, loop_times = [], []
    for _ in range(o.repeat):
        t, u = seconds(lambda: upper_factor_of_inverse(hessian))
        factor_times.append(t)
        loop_times.append(seconds(lambda: quantize_columns(weight, u))[0])
    middle = lambda times: sorted(times)[len(times) // 2]
    print(json.dumps({"torch": torch.__version__, "threads": o.threads, "gemm_gflops": 2 * 2048**3 / gemm / 1e9,
                      "factor_s": middle(factor_times), "loop_s": middle(loop_times),
                      "solve_s": middle([f + l for f, l in zip(factor_times, loop_times)])}))


if __name__ == "__main__":
    main()
