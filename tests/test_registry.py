"""The registry: unique ids, short names, entry points, helpful errors; and the light import."""

import subprocess
import sys

import pytest

import lowdim
from lowdim import registry
from lowdim.errors import InputError, MissingExtraError, require


def test_import_is_light():
    code = "import sys, lowdim; print([m for m in ('torch', 'numpy', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves_and_unknown_ones_say_so():
    for name in lowdim.__all__:
        assert getattr(lowdim, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lowdim.nonsense  # noqa: B018


def test_ids_are_well_formed_and_sorted():
    ids = [m.id for m in registry.methods()]
    assert ids == sorted(set(ids))
    assert all(id.count("/") == 1 and id == id.lower() for id in ids)
    assert {m.room for m in registry.methods("geometry")} == {"geometry"}
    with pytest.raises(InputError, match="choose from"):
        registry.methods("kitchen")


def test_find_by_id_by_short_name_and_by_mistake():
    assert registry.find("two-nn") is registry.find("geometry/two-nn")
    with pytest.raises(InputError, match="did you mean"):
        registry.find("two-nnn")
    with pytest.raises(InputError, match="several rooms: geometry/rank-99, spectra/rank-99"):
        registry.find("rank-99")


def test_an_id_is_taken_once():
    with pytest.raises(InputError, match="taken by"):
        registry.method("geometry/two-nn", needs=registry.points(), paper="-", cost="-")(len)


def test_outside_packages_register_by_entry_point(tmp_path):
    (tmp_path / "guest.py").write_text(
        "from lowdim import Estimate, method\n"
        "from lowdim.registry import points\n"
        "@method('geometry/guest', needs=points(), paper='none', cost='O(1)')\n"
        "def guest(x):\n"
        "    '''How many rows are there?'''\n"
        "    return Estimate(value=len(x), n=len(x))\n"
    )
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lowdim.methods]\nguest = guest\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import lowdim; print(lowdim.measure([[1.0], [2.0]], 'guest')['guest'].value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr


def test_missing_extra_names_the_line_to_run():
    with pytest.raises(MissingExtraError, match=r"pip install 'lowdim\[faiss\]'"):
        require("no_such_module", "faiss")
