"""Codes of vectors: encode and decode against the machine's limit and faiss's ScalarQuantizer.

The limit of a code is a copy of its coordinates, which moves more bytes than it has to; of a code
that rotates, the product with the rotation. Shares of 1 are at the limit.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.harness import Row, interleaved, report

NAMES = ("float16", "bfloat16", "float8", "float8-e5m2", "int8", "int4", "bits48", "bits96")
ROTATED = ("int8-rotated", "int4-rotated", "binary")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--block", type=int, default=683, help="rows decoded at once, as in search")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    from lowdim.retrieval.code import find_code

    torch.manual_seed(0)
    x = torch.randn(args.n, args.dim) * torch.logspace(0, -1, args.dim)
    turn = torch.linalg.qr(torch.randn(args.dim, args.dim))[0]
    out = torch.empty_like(x)
    limits = {"copy": lambda: out.copy_(x), "product": lambda: torch.mm(x, turn, out=out)}
    rows = []
    for name in NAMES + ROTATED:
        kind, size = find_code(name)
        code = kind.fit(x[:20_000], size=size)
        codes = code.encode(x)
        times = interleaved(
            limits
            | {
                "encode": lambda code=code: code.encode(x),
                "decode": lambda code=code, codes=codes: [
                    code.decode(part) for part in codes.split(args.block)
                ],
            }
            | (faiss_contenders(code, x, codes) if name in ("int8", "int4") else {}),
            args.repeats,
        )
        limit = "product" if name in ROTATED else "copy"
        for what in ("encode", "decode"):
            share = times.ratio(limit, what)
            rows.append(Row(f"{name} {what}: share of the {limit}", share, "", ">= 0.5"))
            if f"faiss {what}" in times:
                ratio = times.ratio(f"faiss {what}", what)
                rows.append(Row(f"{name} {what}: faiss over ours", ratio, "x", ">= 1"))
            rate = 4 * x.numel() / times.best(what) / 1e9
            rows.append(Row(f"{name} {what}: float32 coordinates", rate, "GB/s"))
    report("index_codes", rows, n=args.n, dim=args.dim, block=args.block)


def faiss_contenders(code, x, codes):
    """The same grid in faiss, on as many threads; its bytes are ours."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    kind = {8: faiss.ScalarQuantizer.QT_8bit, 4: faiss.ScalarQuantizer.QT_4bit}[code.bits]
    theirs = faiss.ScalarQuantizer(code.dims, kind)
    faiss.copy_array_to_vector(torch.cat([code.low, code.width]).numpy(), theirs.trained)
    vectors, stored = x.numpy(), codes.numpy()
    if (theirs.compute_codes(vectors[:1000]) != stored[:1000]).any():
        raise RuntimeError("faiss makes other bytes of the same grid")
    return {
        "faiss encode": lambda: theirs.compute_codes(vectors),
        "faiss decode": lambda: theirs.decode(stored),
    }


if __name__ == "__main__":
    main()
