"""Make lowdim/data/glosses.jsonl: 250 WordNet 3.0 definitions of each of eight fields.

    python benchmarks/make_glosses.py DICT [OUT]

DICT is the folder with ``data.noun`` and ``data.verb`` of WordNet 3.0 (``/usr/share/wordnet`` of
the Debian package wordnet-base 1:3.0). The choice is by the SHA-256 of the text, so it is the same
on every machine; the SHA-256 of the file is printed.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lowdim.io.write import atomic_write

# lexicographer file numbers, as lexnames(5WN) lists them
FIELDS = {
    "05": "noun.animal",
    "06": "noun.artifact",
    "08": "noun.body",
    "09": "noun.cognition",
    "13": "noun.food",
    "15": "noun.location",
    "27": "noun.substance",
    "38": "verb.motion",
}
PER_FIELD = 250
LENGTH = range(20, 201)

# entries of a register rather than sentences: "type genus of the Rajidae"
STUB = re.compile(r"\b(sub)?(genus|family|order) of\b|classification", re.IGNORECASE)
# glosses that do not belong in a demonstration: sex, violence, slurs, peoples and faiths judged
UNFIT = re.compile(
    r"\b(\w*sex\w*|erotic\w*|libid\w*|genit\w*|penis|penile|vagina\w*|vulva\w*|clitor\w*|foreskin|"
    r"testic\w*|testis|scrot\w*|anus|anal|rect(um|al)|semen|sperm\w*|breast\w*|nipple\w*|mammar\w*|"
    r"buttock\w*|pubic|pubes|f[ae]+c(al|es)\w*|excre\w*|urin\w*|menstru\w*|prostitut\w*|brothel\w*|"
    r"contracept\w*|abort\w*|rape\w*|kill\w*|murder\w*|suicid\w*|tortur\w*|execut\w*|gallows|"
    r"guillotin\w*|massacre\w*|genocid\w*|slave\w*|nazi\w*|terroris\w*|bomb\w*|gas chamber|"
    r"concentration camp|corpse\w*|racis\w*|racial|race|negro\w*|gyps\w*|savage\w*|retard\w*|"
    r"primitive people|cripple\w*|idiot\w*|stupid\w*|slang|obscen\w*|vulgar|offensive|slur|"
    r"disparag\w*|derogat\w*|homosexual\w*|jew\w*|muslim\w*|moslem\w*|islam\w*|christ\w*|hindu\w*|"
    r"heathen\w*|pagan\w*|infidel\w*|cult|heroin|cocaine|marijuana|opium|hallucinogen\w*|"
    r"illiterate|flog\w*|whipp\w*|prisoner\w*|mental(ly)? (hospital|incompetent)|indians|eskimo\w*|"
    r"oriental|pudend\w*)\b",
    re.IGNORECASE,
)


def definitions(dictionary: Path) -> Iterator[tuple[str, str, str]]:
    """Field, headword and definition of every synset of the chosen fields, examples left out."""
    for name in ("data.noun", "data.verb"):
        for line in (dictionary / name).read_text("utf-8").splitlines():
            synset, bar, gloss = line.partition(" | ")
            if not bar or line.startswith(" "):  # the licence at the top is indented
                continue
            _, field, _, _, lemma = synset.split()[:5]
            text = re.sub(r'[;,:]?\s*"[^"]*"?.*', "", gloss)  # examples stand last, in quotes
            text = re.sub(r"\s+", " ", text).strip(" ;,:")
            if field in FIELDS:
                yield FIELDS[field], lemma.replace("_", " "), text


def main(dictionary: Path, out: Path) -> None:
    """Choose by hash, write, and print the counts and the SHA-256 of the file."""
    entries = list(definitions(dictionary))
    seen = Counter(text.casefold() for _, _, text in entries)
    fit = [
        entry
        for entry in entries
        if len(entry[2]) in LENGTH
        and seen[entry[2].casefold()] == 1
        and not STUB.search(entry[2])
        and not UNFIT.search(f"{entry[1]} {entry[2]}")
    ]
    fit.sort(key=lambda entry: hashlib.sha256(entry[2].encode()).digest())
    lines = []
    for field in FIELDS.values():
        chosen = [entry for entry in fit if entry[0] == field][:PER_FIELD]
        print(f"{field:16} {len(chosen)} of {sum(e[0] == field for e in entries)}")
        lines += [
            json.dumps({"text": text, "label": field, "lemma": lemma}, ensure_ascii=False)
            for _, lemma, text in chosen
        ]
    data = "\n".join(lines) + "\n"
    atomic_write(out, data)
    print(f"{out}: {len(lines)} lines, SHA-256 {hashlib.sha256(data.encode()).hexdigest()}")


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    main(Path(sys.argv[1]), Path((sys.argv[2:] or [root / "lowdim/data/glosses.jsonl"])[0]))
