import gzip
import shutil
from concurrent.futures import ThreadPoolExecutor

import mrcfile
import numpy as np
import pytest

from common.cli import InputError
from loader.volume import (
    central_brightness,
    normalise,
    outer_spread,
    read_volume,
    skewness,
    split_address,
    write_volume,
)


@pytest.fixture
def volume():
    return np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)


def test_a_written_volume_reads_back_with_its_voxel_size(tmp_path, volume):
    write_volume(tmp_path / "a.mrc", volume, 10.0)
    found, voxel_size = read_volume(tmp_path / "a.mrc")
    np.testing.assert_array_equal(found, volume)
    assert voxel_size == pytest.approx(10.0)


def test_the_same_volume_gives_the_same_bytes(tmp_path, volume):
    write_volume(tmp_path / "a.mrc", volume, 10.0)
    write_volume(tmp_path / "b.mrc", volume, 10.0)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        assert str(mrc.header.label[0].decode()).rstrip() == "Created by mrcfile.py"  # no time stamp


@pytest.mark.parametrize(("stamp", "flags", "signed"), [(1146047817, 0, False), (1146047817, 1, True), (0, 0, True)])
def test_bytes_are_signed_but_for_files_of_imod_that_say_they_are_not(tmp_path, stamp, flags, signed):
    path, values = tmp_path / "a.mrc", np.arange(-128, 128).reshape(4, 8, 8).astype(np.int8)
    with mrcfile.new(path) as file:
        file.set_data(values)
    content = bytearray(path.read_bytes())
    content[152:160] = np.array([stamp, flags], "<i4").tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path)[0], values if signed else values.view(np.uint8))


@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_every_real_mode_becomes_float32(tmp_path, mode):
    values = np.arange(64).reshape(4, 4, 4)
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(values.astype(mrcfile.utils.dtype_from_mode(mode)))
    found, voxel_size = read_volume(tmp_path / "a.mrc")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)
    assert voxel_size is None  # the header says 0: unknown


def test_what_is_outside_of_the_enclosed_sphere_tells_how_noisy_a_volume_is():
    rng, axis = np.random.default_rng(0), np.arange(16) - 7.5
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    spreads = [
        outer_spread(normalise(level * rng.normal(size=(16,) * 3) + (distance < 5), "")) for level in (2, 1, 0.3)
    ]
    assert 0.95 < spreads[0] < 1.05 and spreads[0] > spreads[1] + 0.03 > spreads[2] + 0.2
    assert outer_spread(np.where(distance > 8, 3.0, distance)) == 0


def test_complex_values_are_refused(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(np.ones((4, 4, 4), dtype=np.complex64))
    with pytest.raises(InputError, match=r"a\.mrc: holds complex values"):
        read_volume(tmp_path / "a.mrc")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (3, 1, 2), (2, 3, 1), (1, 3, 2)])
def test_axes_are_brought_to_zyx_as_the_header_says(tmp_path, order):
    zyx = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    mapc, mapr, maps = order  # 1 = x, 2 = y, 3 = z
    stored = np.transpose(zyx, [3 - axis for axis in (maps, mapr, mapc)])
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(stored)
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = order
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mrc")[0], zyx)


def test_one_volume_of_a_stack_is_addressed_by_its_number_from_1(tmp_path):
    stack = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype(np.float32)
    with mrcfile.new(tmp_path / "s.mrcs") as mrc:
        mrc.set_data(stack)
    np.testing.assert_array_equal(read_volume(f"2@{tmp_path}/s.mrcs")[0], stack[1])
    with pytest.raises(InputError, match="volumes 1 to 3; asked for 4"):
        read_volume(f"4@{tmp_path}/s.mrcs")
    with pytest.raises(InputError, match="one 3-D volume"):
        read_volume(tmp_path / "s.mrcs")


def test_a_tilt_stack_is_refused(tmp_path, volume):
    with mrcfile.new(tmp_path / "tilt.mrcs") as mrc:
        mrc.set_data(np.ones((3, 4, 4), dtype=np.float32))
        mrc.set_image_stack()
    with pytest.raises(InputError, match="image stack"):
        read_volume(tmp_path / "tilt.mrcs")
    with pytest.raises(InputError, match=r"no volumes: give extract\.py the coordinates and the tomograms"):
        read_volume(f"1@{tmp_path}/tilt.mrcs")


def test_a_stack_of_as_many_tilts_as_the_box_has_voxels_is_no_volume(tmp_path, volume):
    for name in ("tilts.mrcs", "tilts.mrcs.gz"):
        with mrcfile.new(tmp_path / name, compression="gzip" if name.endswith("gz") else None) as mrc:
            mrc.set_data(np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32))
            mrc.set_image_stack()
        with pytest.raises(InputError, match=f"{name}: holds .*, an image stack; .* give extract.py the coordinates"):
            read_volume(tmp_path / name)


def test_a_gzipped_volume_reads_the_same(tmp_path, volume):
    write_volume(tmp_path / "a.mrc", volume, 10.0)
    with open(tmp_path / "a.mrc", "rb") as plain, gzip.open(tmp_path / "a.mrc.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mrc.gz")[0], volume)


BAD = r"not a readable MRC file \("


def put(path, place, value):
    """Overwrite four bytes of a file."""
    data = bytearray(path.read_bytes())
    data[place : place + 4] = np.int32(value).tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:1100]),
            f"{BAD}its header claims 1,280 bytes, and it holds 1,100",
        ),
        (lambda path: path.write_bytes(b""), f"{BAD}it holds 0 bytes; the header alone has 1,024"),
        (lambda path: path.write_text("hello" * 1000), f"{BAD}its bytes 209 to 211 are b.loh.; expected MAP"),
        (lambda path: put(path, 12, 99), f"{BAD}its header names the mode 99; expected 0, 1, 2, 6 or 12"),
        (lambda path: put(path, 212, 0), f"{BAD}byte 213, the order of bytes, is 0x00; expected 0x44"),
        (lambda path: put(path, 0, -1), rf"{BAD}its header claims \[-1, 4, 4\] voxels"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, volume, damage, message):
    path = tmp_path / "bad.mrc"
    write_volume(path, volume, 10.0)
    damage(path)
    with pytest.raises(InputError, match=rf"bad\.mrc: {message}"):
        read_volume(path)


def test_damaged_compressed_data_are_told_from_a_damaged_header(tmp_path, volume):
    write_volume(tmp_path / "a.mrc", volume, 10.0)
    packed = gzip.compress((tmp_path / "a.mrc").read_bytes())
    for content in (packed[:200], packed[:100] + b"\0" * 9 + packed[109:]):
        (tmp_path / "b.mrc.gz").write_bytes(content)
        with pytest.raises(InputError, match=rf"b\.mrc\.gz: {BAD}its compressed data are damaged, or end early"):
            read_volume(tmp_path / "b.mrc.gz")
    (tmp_path / "b.mrc.gz").write_bytes(gzip.compress(b"hello" * 1000))
    with pytest.raises(InputError, match=f"{BAD}its bytes 209 to 211 are b.loh.; expected MAP"):
        read_volume(tmp_path / "b.mrc.gz")


def test_a_stack_whose_header_claims_nothing_is_named(tmp_path):
    with mrcfile.new(tmp_path / "s.mrcs") as mrc:
        mrc.set_data(np.ones((2, 4, 4, 4), dtype=np.float32))
    header = bytearray((tmp_path / "s.mrcs").read_bytes()[:1024])
    for size in ((0, 0, 0), (4, 4, 0), (-1, 4, 4), (10**5, 10**5, 10**5)):
        header[:12] = np.array(size, dtype="<i4").tobytes()
        (tmp_path / "s.mrcs").write_bytes(header)
        with pytest.raises(InputError, match=r"s\.mrcs: "):
            read_volume(f"1@{tmp_path}/s.mrcs")
        with pytest.raises(InputError, match=r"s\.mrcs: "):
            read_volume(tmp_path / "s.mrcs")


def test_a_name_of_5000_characters_is_that_of_no_file():
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(InputError, match=r"no such file$"):
            read_volume(f"1@{name}")
    with pytest.raises(InputError, match=r"^an empty name: no such file$"):
        read_volume("")


def test_values_that_are_not_finite_are_refused(tmp_path, volume):
    write_volume(tmp_path / "a.mrc", volume, 10.0)
    with mrcfile.mmap(tmp_path / "a.mrc", mode="r+") as mrc:
        mrc.data[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 values are NaN or infinite"):
        read_volume(tmp_path / "a.mrc")


def test_a_normalised_volume_has_mean_0_and_standard_deviation_1(volume):
    found = normalise(1000 + 3 * volume, "a")
    assert found.mean() == pytest.approx(0, abs=1e-5)
    assert found.std() == pytest.approx(1, abs=1e-5)


def test_a_constant_volume_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"x\.mrc: the volume is constant"):
        normalise(np.full((4, 4, 4), 7.0, dtype=np.float32), "x.mrc")


def test_addresses_split_into_number_and_path():
    assert split_address("12@a/b.mrcs")[0] == 12
    assert str(split_address("12@a/b.mrcs")[1]) == "a/b.mrcs"
    assert split_address("a/b.mrc")[0] is None


def test_volumes_of_a_stack_agree_with_the_stack_plain_or_gzipped(tmp_path):
    stack = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype(np.float32)
    with mrcfile.new(tmp_path / "s.mrcs.gz", compression="gzip") as mrc:
        mrc.set_data(stack)
    np.testing.assert_array_equal(read_volume(f"3@{tmp_path}/s.mrcs.gz")[0], stack[2])


@pytest.mark.parametrize("side", [8, 15, 32])
def test_the_centre_of_a_bright_particle_is_bright_and_of_a_dark_one_dark(side):
    rng = np.random.default_rng(0)
    at = (np.arange(side) - (side - 1) / 2) / side
    particle = np.exp(-(at[:, None, None] ** 2 + at[None, :, None] ** 2 + at**2) / (2 * 0.15**2))
    noise = rng.normal(size=(200, side, side, side))
    found = np.array([central_brightness(normalise(3 * particle + one, "a")) for one in noise])
    dark = np.array([central_brightness(normalise(one - 3 * particle, "a")) for one in noise])
    alone = np.array([central_brightness(normalise(one, "a")) for one in noise])
    assert found.min() > 3 and dark.max() < -3
    assert alone.std() == pytest.approx(1, abs=0.15) and abs(alone.mean()) < 0.3  # standard errors of white noise


@pytest.mark.parametrize("side", [8, 15, 16, 32, 48])
def test_the_skewness_of_noise_of_any_colour_is_of_spread_one_about_zero(side):
    rng = np.random.default_rng(0)
    at = np.fft.fftfreq(side)
    frequency = np.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + np.fft.rfftfreq(side) ** 2)
    for colour in (0.0, 1.0, 2.0):
        spectra = (np.fft.rfftn(rng.normal(size=(side,) * 3)) * (2 * frequency + 0.1) ** -colour for _ in range(150))
        noise = [np.fft.irfftn(spectrum, (side,) * 3, (0, 1, 2)).astype(np.float32) for spectrum in spectra]
        found = np.array([skewness(volume) for volume in noise])
        assert found.std() == pytest.approx(1, abs=0.2) and abs(found.mean()) < 0.3


def test_the_skewness_is_the_third_moment_over_its_standard_error_by_a_plain_loop():
    volume = np.random.default_rng(1).normal(size=(8, 8, 8)).astype(np.float32)
    at = np.arange(8)
    weights = np.exp(-0.5 * np.minimum(abs(at[:, None] - at), 8 - abs(at[:, None] - at)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    smooth = np.einsum("az,by,cx,zyx->abc", weights, weights, weights, volume)
    smooth -= smooth.mean()
    products = [np.mean(smooth * np.roll(smooth, (z, y, x), (0, 1, 2))) for z in at for y in at for x in at]
    r = np.array(products) / np.mean(smooth**2)
    expected = np.mean(smooth**3) / np.mean(smooth**2) ** 1.5 / np.sqrt(6 * max(1.0, np.sum(r**3)) / 512)
    assert skewness(volume) == pytest.approx(expected, rel=1e-4)
    assert skewness(-volume) == pytest.approx(-expected, rel=1e-4)
    assert skewness(3 * volume + 7) == pytest.approx(expected, rel=1e-3)


def test_a_hollow_particle_is_skewed_to_its_own_sign_whatever_its_middle_is():
    at = np.arange(32) - 15.5
    radius, tube = np.sqrt(at[:, None, None] ** 2 + at[:, None] ** 2 + at**2), np.sqrt(at[:, None] ** 2 + at**2)
    rng = np.random.default_rng(0)
    for distance, middle in ((radius, 10), (np.broadcast_to(tube, radius.shape), 8)):  # voxels
        wall = np.exp(-((distance - middle) ** 2) / 4) - 0.6 * np.exp(-(distance**2) / 18)
        found = [skewness(wall + rng.normal(size=wall.shape)) for _ in range(20)]
        dark = [skewness(rng.normal(size=wall.shape) - wall) for _ in range(20)]
        assert min(found) > 1 and max(dark) < -1
        assert (
            np.mean([central_brightness(normalise(wall + rng.normal(size=wall.shape), "a")) for _ in range(9)]) < -1.5
        )


def test_every_half_precision_value_is_read_as_numpy_converts_it(tmp_path):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.where(np.isfinite(every), every, 0).astype(np.float16)
    with mrcfile.new(tmp_path / "a.mrcs") as mrc:
        mrc.set_data(finite.reshape(2, 32, 32, 32))
    read = np.concatenate([read_volume(f"{number}@{tmp_path / 'a.mrcs'}")[0].ravel() for number in (1, 2)])
    np.testing.assert_array_equal(read, finite.astype(np.float32))


def test_a_volume_is_normalised_alike_in_every_thread_and_beside_others():
    rng = np.random.default_rng(3)
    volumes = [rng.normal(size=(side,) * 3).astype(np.float32) for side in (8, 16, 8, 12) for _ in range(20)]
    expected = [((one - one.mean(dtype=float)) / one.std(dtype=float)).astype(np.float32) for one in volumes]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(lambda one: normalise(one, "a"), volumes), expected, strict=True):
            np.testing.assert_allclose(found, one, rtol=1e-6)
