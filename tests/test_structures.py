"""Densities: where atoms are, how much they weigh, and that procedural complexes look like real ones."""

import gzip
import os
from dataclasses import replace
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch

from common.cli import REPOSITORY, InputError
from loader.volume import read_volume, write_volume
from physics.grid import Grid
from simulation import download
from simulation.class_sets import CLASS_SETS
from simulation.download import download_missing
from simulation.procedural import RESIDUE_VOLUME, RESIDUES, procedural_residues
from simulation.structures import (
    MAP_INTERIOR,
    density_from_atoms,
    density_from_map,
    find_structures,
    load_densities,
    procedural_complex,
    read_atoms,
)

SHARED = Path(os.environ.get("SOFTLMCCL_STRUCTURES", REPOSITORY.parent / "shared" / "structures"))
needs_structures = pytest.mark.skipif(
    not (SHARED / "pdb").is_dir(), reason=f"no structures in {SHARED} (SOFTLMCCL_STRUCTURES says where they are)"
)
CUBIC_A3_PER_DA = 1.21
BOX = Grid(32, 10.0, 20.0)
FREE = replace(BOX, box=None)  # as large as the complex needs


def atom_file(path: Path, positions: list[tuple[float, float, float]], element: str = "C") -> Path:
    """A coordinate file of lone atoms."""
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    chain = gemmi.Chain("A")
    for number, position in enumerate(positions, 1):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(number))
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = "CA", gemmi.Element(element), gemmi.Position(*position)
        residue.add_atom(atom)
        chain.add_residue(residue)
    structure[0].add_chain(chain)
    if path.suffix == ".cif":
        structure.make_mmcif_document().write_file(str(path))
    else:
        structure.write_pdb(str(path))
    return path


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def centre_of_mass(density: np.ndarray) -> np.ndarray:
    offset = np.arange(len(density)) - (len(density) - 1) / 2
    return np.array([(density.sum(axis=axes) * offset).sum() for axes in ((1, 2), (0, 2), (0, 1))]) / density.sum()


# ---- coordinates ----


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_atoms_lie_where_the_file_says_in_z_y_x(tmp_path, suffix):
    atoms = [(0.0, 0.0, 0.0), (80.0, 0.0, 0.0), (0.0, 40.0, 0.0), (0.0, 0.0, 120.0)]
    density = density_from_atoms(atom_file(tmp_path / f"a{suffix}", atoms), BOX)
    mean = np.mean(atoms, axis=0)
    for x, y, z in (np.array(atoms) - mean) / 10 + 15.5:
        near = np.round([z, y, x]).astype(int)
        window = density[tuple(slice(i - 1, i + 2) for i in near)]
        assert window.max() == pytest.approx(density.max(), rel=0.5)
    mirrored = density[:, :, ::-1]
    assert correlation(density, mirrored) < 0.5


def test_an_atom_weighs_what_it_scatters(tmp_path):
    carbon, sulphur = (
        density_from_atoms(atom_file(tmp_path / f"{element}.pdb", [(5.0, 5.0, 5.0)], element), FREE).sum()
        for element in ("C", "S")
    )
    assert sulphur / carbon == pytest.approx(5.16 / 2.51, rel=0.01)  # electron scattering at k = 0


def test_waters_and_hydrogens_are_dropped(tmp_path):
    positions, scattering = read_atoms(atom_file(tmp_path / "h.pdb", [(0.0, 0, 0), (9.0, 0, 0)]))
    structure = gemmi.read_structure(str(tmp_path / "h.pdb"))
    structure[0][0][1].name = "HOH"
    structure.write_pdb(str(tmp_path / "w.pdb"))
    assert len(positions) == 2 and len(read_atoms(tmp_path / "w.pdb")[0]) == 1
    with pytest.raises(InputError, match=r"hydrogen\.pdb.*none that scatter"):
        read_atoms(atom_file(tmp_path / "hydrogen.pdb", [(0.0, 0, 0)], "H"))
    assert scattering[0] == pytest.approx(2.51, rel=0.01)


@needs_structures
def test_the_density_is_that_of_gemmis_own_calculator():
    path = SHARED / "pdb" / "3hhb.pdb.gz"
    ours = density_from_atoms(path, Grid(32, 5.0, 20.0), assembly=False)
    positions, _ = read_atoms(path, assembly=False)
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    structure.remove_waters()
    calculator = gemmi.DensityCalculatorE()
    structure.cell = gemmi.UnitCell(160, 160, 160, 90, 90, 90)
    structure.spacegroup_hm = "P1"
    weights = read_atoms(path, assembly=False)[1]
    centre = np.average(positions, axis=0, weights=weights)
    for site in structure[0].all():
        site.atom.pos += gemmi.Position(*(77.5 - centre))
        site.atom.b_iso = 8 * np.pi**2 * (20 / (np.pi * np.sqrt(2))) ** 2
    calculator.grid.set_size(32, 32, 32)
    calculator.grid.set_unit_cell(structure.cell)
    calculator.put_model_density_on_grid(structure[0])
    theirs = np.array(calculator.grid.array).transpose(2, 1, 0)  # (x, y, z) -> (z, y, x)
    assert correlation(ours, theirs) > 0.999


@needs_structures
def test_1bxn_agrees_with_an_independent_map_and_its_mirror_does_not():
    atoms = density_from_atoms(SHARED / "pdb" / "1bxn.pdb.gz", BOX, assembly=False)
    theirs = density_from_map(SHARED / "maps_10A" / "1bxn.mrc.gz", BOX)
    assert correlation(atoms, theirs) > 0.95
    assert max(correlation(np.flip(atoms, axis), theirs) for axis in range(3)) < 0.95
    assert theirs.max() == pytest.approx(atoms.max(), rel=0.15)  # comparable scales


@needs_structures
def test_assembly_1_of_1bxn_is_twice_what_was_deposited():
    whole, half = (
        density_from_atoms(SHARED / "pdb" / "1bxn.pdb.gz", FREE, assembly=choice) for choice in (True, False)
    )
    assert whole.sum() / half.sum() == pytest.approx(2.0, rel=0.01)
    volume = whole.sum() * 10.0**3  # in A^3 of solid protein: 480 kDa of heavy atoms, and 7 % of hydrogen
    assert volume == pytest.approx(1.07 * 480e3 * CUBIC_A3_PER_DA, rel=0.03)


@needs_structures
def test_the_benchmark_fits_its_box_centred_and_of_one_scale():
    names = ("1bxn", "3gl1", "4v4r_30S", "1oel")
    densities = load_densities(names, SHARED / "pdb", replace(BOX, margin=2.0))
    assert densities.shape == (4, 32, 32, 32) and densities.dtype == torch.float32
    for density in densities.numpy():
        assert np.abs(centre_of_mass(density)).max() < 0.05
        assert 0.8 < density.max() < 1.3
        assert density.min() > -0.12
    missing = set(CLASS_SETS["benchmark"].names) - set(find_structures(SHARED / "pdb"))
    assert not missing


# ---- maps ----


@pytest.mark.parametrize("own", [4.0, 7.3, 10.0])
def test_a_map_of_any_voxel_size_gives_the_same_density(tmp_path, own):
    expected = procedural_complex(9, 0, BOX)
    fine = procedural_complex(9, 0, Grid(None, own, 20.0))
    moved = np.pad(3.7 * fine, ((0, 3), (2, 0), (0, 1)))  # not a cube, not centred, another scale
    write_volume(tmp_path / "map.mrc", moved.astype(np.float32), own)
    density = density_from_map(tmp_path / "map.mrc", BOX, level=0.02)
    assert correlation(density, expected) > 0.99
    assert np.abs(centre_of_mass(density)).max() < 0.1
    assert (density**2).sum() / density.sum() == pytest.approx(MAP_INTERIOR, rel=0.01)


def test_bad_maps_are_named(tmp_path):
    volume = procedural_complex(3, 0, FREE)
    write_volume(tmp_path / "dark.mrc", -np.abs(volume), 10.0)
    write_volume(tmp_path / "good.mrc", volume, 10.0)
    with mrcfile.open(tmp_path / "good.mrc", mode="r+") as mrc:
        mrc.voxel_size = 0
    (tmp_path / "short.mrc").write_bytes((tmp_path / "dark.mrc").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"dark\.mrc.*bright"):
        density_from_map(tmp_path / "dark.mrc", FREE)
    with pytest.raises(InputError, match=r"good\.mrc.*voxel size"):
        density_from_map(tmp_path / "good.mrc", FREE)
    with pytest.raises(InputError, match=r"short\.mrc"):
        density_from_map(tmp_path / "short.mrc", FREE)


# ---- folders and names ----


def test_names_are_file_names_up_to_the_first_dot(tmp_path):
    for name in ("b.pdb", "a.x.cif", "c.mrc", "notes.txt"):
        (tmp_path / name).touch()
    assert list(find_structures(tmp_path)) == ["a", "b", "c"]
    assert list(find_structures(tmp_path, ("c", "B"))) == ["c", "B"]


def test_missing_structures_are_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_structures(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no"):
        find_structures(tmp_path)
    (tmp_path / "a.pdb").touch()
    with pytest.raises(InputError, match="no structure of the name 9zzz"):
        find_structures(tmp_path, ("a", "9zzz"))
    (tmp_path / "a.mrc").touch()
    with pytest.raises(InputError, match="the same name"):
        find_structures(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a structure\n", b"\x1f\x8b\x08\x00garbage"])
@pytest.mark.parametrize("name", ["bad.pdb", "bad.cif", "bad.pdb.gz"])
def test_unreadable_coordinates_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="bad") as caught:
        density_from_atoms(tmp_path / name, FREE)
    assert "\n" not in str(caught.value)


def test_a_structure_too_large_names_the_box_it_needs(tmp_path):
    path = atom_file(tmp_path / "long.pdb", [(0.0, 0, 0), (300.0, 0, 0)])
    with pytest.raises(InputError, match=r"long\.pdb: .* need a box of 36 voxels") as caught:
        density_from_atoms(path, replace(BOX, margin=2.0))
    assert "the box is 32" in str(caught.value)
    assert density_from_atoms(path, replace(BOX, box=36, margin=2.0)).shape == (36,) * 3
    assert density_from_atoms(path, replace(BOX, box=33)).shape == (33,) * 3


def test_the_tip_of_a_tail_may_leave_the_box_and_no_more(tmp_path):
    globule = [(x, y, z) for x in range(0, 50, 5) for y in range(0, 50, 5) for z in range(0, 50, 5)]  # 1,000 atoms
    tip = [(25.0, 25.0, 190.0 + 5 * number) for number in range(4)]
    slight = atom_file(tmp_path / "slight.pdb", globule + tip[:1])
    assert density_from_atoms(slight, replace(BOX, box=16)).shape == (16,) * 3
    with pytest.raises(InputError, match=r"long\.pdb: .* need a box of \d+ voxels"):
        density_from_atoms(atom_file(tmp_path / "long.pdb", globule + tip), replace(BOX, box=16))


def test_the_class_sets_hold_every_class_once():
    for classes in CLASS_SETS.values():
        assert len(set(classes.names)) == len(classes.names)
    benchmark, original = CLASS_SETS["benchmark"], CLASS_SETS["original"]
    assert [len(part) for part in (benchmark.known, benchmark.valid_unseen, benchmark.unseen)] == [10, 6, 8]
    assert original.names[0] == "1bxn" and original.names[-1] == "3hhb" and len(original.names) == 10


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """A folder in place of the archive."""
    folder = tmp_path / "archive"
    folder.mkdir()
    monkeypatch.setattr(download, "ARCHIVE", folder.as_uri() + "/{name}.cif.gz")
    return folder


def test_missing_entries_are_downloaded_once(tmp_path, archive, capsys):
    plain = atom_file(archive / "a.cif", [(0.0, 0, 0), (50.0, 0, 0)])
    (archive / "1ABC.cif.gz").write_bytes(gzip.compress(plain.read_bytes()))
    folder = tmp_path / "structures"
    assert download_missing(folder, ("1abc",)) == [folder / "1abc.cif.gz"]
    assert download_missing(folder, ("1abc",)) == []
    assert len(read_atoms(folder / "1abc.cif.gz")[0]) == 2
    assert capsys.readouterr().out.count("downloaded") == 1


def test_what_cannot_be_downloaded_says_where_to_put_the_file(tmp_path, archive):
    folder = tmp_path / "structures"
    with pytest.raises(InputError, match=r"2abc\.cif\.gz"):
        download_missing(folder, ("2abc",))
    (archive / "3ABC.cif.gz").write_bytes(gzip.compress(b"<html>Sorry</html>"))
    with pytest.raises(InputError, match="not a structure; put the file"):
        download_missing(folder, ("3abc",))
    (archive / "4ABC.cif.gz").write_bytes(b"<html>Sorry</html>")
    with pytest.raises(InputError, match="cannot be downloaded"):
        download_missing(folder, ("4abc",))
    with pytest.raises(InputError, match="no PDB id"):
        download_missing(folder, ("ribosome",))
    assert not folder.exists() or not list(folder.iterdir())


# ---- procedural complexes ----


def test_a_procedural_complex_depends_on_its_seed_and_number_alone():
    one, again, other = procedural_residues(4, 9), procedural_residues(4, 9), procedural_residues(4, 10)
    assert np.array_equal(one, again) and len(one) != len(other)
    together = load_densities(("complex03", "complex04"), "", BOX, seed=9)
    assert np.array_equal(together[1], procedural_complex(4, 9, BOX))


def test_procedural_complexes_are_of_the_size_and_compactness_of_real_ones():
    complexes = [procedural_residues(index, 0) for index in range(40)]
    count = np.array([len(residues) for residues in complexes])
    assert count.min() >= 0.8 * RESIDUES[0] and count.max() <= 1.1 * RESIDUES[1]
    assert np.log(count).std() > 0.7
    gyration = np.array([np.sqrt(residues.var(axis=0).sum()) for residues in complexes])
    # 28 real complexes of 38 to 730 kDa have 0.84 to 1.43 times 2.2 N^0.38 A, the law of single chains; median 1.00.
    ratio = gyration / (2.2 * count**0.38)
    assert 0.95 < np.median(ratio) < 1.15
    assert np.mean((ratio > 0.85) & (ratio < 1.5)) > 0.9


def test_procedural_density_is_that_of_protein():
    density = procedural_complex(9, 0, FREE)
    assert density.sum() * 10.0**3 == pytest.approx(len(procedural_residues(9, 0)) * RESIDUE_VOLUME, rel=0.01)
    assert 0.8 < density.max() < 1.3
    assert np.abs(centre_of_mass(density)).max() < 0.05


def test_procedural_complexes_fit_the_default_box_and_shift():
    names = tuple(f"complex{index:02d}" for index in range(20))
    assert load_densities(names, "", replace(BOX, margin=2.0), seed=1).shape == (20, 32, 32, 32)
    with pytest.raises(InputError, match="not a procedural complex"):
        load_densities(("1bxn",), "", BOX)


def test_densities_have_nothing_beyond_nyquist(tmp_path):
    atoms = density_from_atoms(atom_file(tmp_path / "a.pdb", [(0.0, 0, 0), (33.0, 12.0, 5.0)]), BOX)
    write_volume(tmp_path / "map.mrc", procedural_complex(2, 0, Grid(None, 5.0, 10.0)), 5.0)
    for density in (atoms, density_from_map(tmp_path / "map.mrc", BOX)):
        k = np.fft.fftfreq(32)
        radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
        power = np.abs(np.fft.fftn(density)) ** 2
        assert power[radius >= 0.5].sum() < 1e-6 * power.sum()
    assert read_volume(tmp_path / "map.mrc")[1] == 5.0


def test_gzipped_coordinates_of_both_formats_are_the_same_structure(atom_files, tmp_path):
    ring = gemmi.read_structure(str(atom_files / "ring.cif.gz"))
    (tmp_path / "ring.pdb.gz").write_bytes(gzip.compress(ring.make_pdb_string().encode()))
    found = [
        density_from_atoms(path, Grid(16, 20.0, 20.0))
        for path in (atom_files / "ring.cif.gz", tmp_path / "ring.pdb.gz")
    ]
    np.testing.assert_allclose(*found, atol=1e-3)
    middle, around = found[0][7:9, 7:9, 7:9].mean(), found[0][7:9, 7:9].max()
    assert found[0].max() > 0.3 and middle < 0.1 * around  # it is hollow
