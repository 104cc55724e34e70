"""Codes of vectors: encode and decode against the machine's limit and faiss's ScalarQuantizer.

The limit of a code is the time that a copy takes for as many bytes as it reads and writes; of one
that rotates, or looks for the nearest of 256 points, the product of matrices that this is. Shares
of 1 are at the limit. Rows come in blocks as `Codec.encode` and a search give them.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Row, interleaved, report
from benchmarks.index_search import vectors

NAMES = ("float16", "bfloat16", "float8", "float8-e5m2", "int8", "int4", "bits48", "bits96")
PRODUCTS = {"int8-rotated": "rotation", "int4-rotated": "rotation", "binary": "rotation"}
PRODUCTS |= {"pq48": "256 points"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--encoded", type=int, default=10_922, help="rows encoded at once")
    parser.add_argument("--decoded", type=int, default=683, help="rows decoded at once")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    from lowdim.retrieval import Codec
    from lowdim.retrieval.code import find_code

    x = torch.from_numpy(vectors(args.n, 1)[0])
    m, out = x.shape[1], torch.empty_like(x)
    turn, points = torch.linalg.qr(torch.randn(m, m))[0], torch.randn(m, 256)
    limits = {
        "copy": lambda: out.copy_(x),
        "rotation": lambda: [part @ turn for part in x.split(args.encoded)],
        "256 points": lambda: [part @ points for part in x.split(args.encoded)],
    }
    rows = []
    for name in (*NAMES, *PRODUCTS):
        kind, size = find_code(name)
        code = kind.fit(x[:20_000], size=size)
        codes = code.encode(x)
        product = PRODUCTS.get(name)
        contenders: dict[str, Any] = {"copy": limits["copy"]}
        if product is not None:
            contenders[product] = limits[product]
        contenders["encode"] = partial(in_blocks, code.encode, x, args.encoded)
        contenders["decode"] = partial(in_blocks, code.decode, codes, args.decoded)
        if name in ("int8", "int4"):
            contenders |= faiss_contenders(code, x, codes, args.encoded, args.decoded)
        times = interleaved(contenders, args.repeats)
        moved = (4 * m + code.bytes_per_vector) / (8 * m)  # of the bytes of a copy
        for what in ("encode", "decode"):
            limit = product if product is not None and what == "encode" else "copy"
            share = times.ratio(limit, what) * (moved if limit == "copy" else 1)
            bar = ">= 0.5" if what == "encode" else ""
            rows.append(Row(f"{name} {what}: share of the limit, {limit}", share, "", bar))
            if f"faiss {what}" in times:
                ratio = times.ratio(f"faiss {what}", what)
                rows.append(Row(f"{name} {what}: faiss over ours", ratio, "x", ">= 1"))
            rate = 4 * x.numel() / times.best(what) / 1e9
            rows.append(Row(f"{name} {what}: float32 coordinates", rate, "GB/s"))
    for name in ("bits48", "bits96"):  # as they are meant: each coordinate of another variance
        codec = Codec(name, reduction="pca", n_train=20_000).fit(x)
        encode = partial(in_blocks, codec.encode, x, args.encoded)
        times = interleaved({"rotation": limits["rotation"], "encode": encode}, args.repeats)
        share = times.ratio("rotation", "encode")
        rows.append(Row(f"pca, {name} encode: share of the limit, rotation", share, "", ">= 0.5"))
    report("index_codes", rows, n=args.n, dim=m, encoded=args.encoded, decoded=args.decoded)


def in_blocks(function: Any, x: torch.Tensor, rows: int) -> None:
    """Results are thrown away: what they are copied to is the caller's."""
    for part in x.split(rows):
        function(part)


def faiss_contenders(
    code: Any, x: torch.Tensor, codes: torch.Tensor, encoded: int, decoded: int
) -> dict[str, Any]:
    """The same grid in faiss, on as many threads; its bytes are ours."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    kind = {8: faiss.ScalarQuantizer.QT_8bit, 4: faiss.ScalarQuantizer.QT_4bit}[code.bits]
    theirs = faiss.ScalarQuantizer(code.dims, kind)
    faiss.copy_array_to_vector(torch.cat([code.low, code.width]).numpy(), theirs.trained)
    if (theirs.compute_codes(x[:1000].numpy()) != codes[:1000].numpy()).any():
        raise RuntimeError("faiss makes other bytes of the same grid")
    return {
        "faiss encode": partial(in_blocks, lambda z: theirs.compute_codes(z.numpy()), x, encoded),
        "faiss decode": partial(in_blocks, lambda c: theirs.decode(c.numpy()), codes, decoded),
    }


if __name__ == "__main__":
    main()
