import os
import subprocess
import sys

import numpy as np
import pytest

from common.machine import available_memory, processors, release
from tests.scripts import REPOSITORY

GB = 10**9


def tree(folder, files):
    """/proc and /sys of a machine with 64 GB available, and what `files` adds."""
    for name, text in {"proc/meminfo": "MemTotal: 99000000 kB\nMemAvailable: 62500000 kB\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def group(path, limit, use, back=0, old=False):
    """The files of a control group."""
    names = ("limit_in_bytes", "usage_in_bytes") if old else ("max", "current")
    stat = f"anon 1\n{'total_' if old else ''}inactive_file {back}\n"
    values = {names[0]: f"{limit}\n", names[1]: f"{use}\n", "stat": stat}
    return {f"sys/fs/cgroup{path}/memory.{name}": text for name, text in values.items()}


def test_without_a_limit_memory_is_what_the_system_says_is_available(tmp_path):
    assert available_memory(tree(tmp_path, {})) == 64 * GB
    unlimited = group("/user", "max", 5 * GB)
    assert available_memory(tree(tmp_path, {"proc/self/cgroup": "0::/user\n", **unlimited})) == 64 * GB


def test_the_limit_of_a_group_around_the_own_one_counts_less_what_is_in_use_and_not_given_back(tmp_path):
    files = {"proc/self/cgroup": "0::/slurm/job7/step0\n", **group("/slurm/job7", 16 * GB, 10 * GB, back=3 * GB)}
    files |= group("/slurm/job7/step0", "max", 1 * GB) | group("/slurm", 40 * GB, 11 * GB)
    assert available_memory(tree(tmp_path, files)) == 9 * GB


def test_groups_of_version_1_count_too_also_where_a_container_sees_its_own_as_the_outermost(tmp_path):
    line = "5:cpu,cpuacct:/x\n3:memory:/docker/abc\n"
    files = group("/memory", 8 * GB, 2 * GB, back=GB, old=True)
    assert available_memory(tree(tmp_path / "inside", {"proc/self/cgroup": line, **files})) == 7 * GB
    files |= group("/memory/docker/abc", 4 * GB, 1 * GB, old=True)
    assert available_memory(tree(tmp_path / "outside", {"proc/self/cgroup": line, **files})) == 3 * GB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path):
    files = {"proc/self/cgroup": "0::/\n", **group("", GB, 2 * GB)}
    assert available_memory(tree(tmp_path, files)) == 0


def test_this_machine_has_some_memory_left():
    assert 2**20 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_processors_are_those_that_the_process_may_run_on():
    script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    script += "from common.machine import processors; print(processors())"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert processors() == len(os.sched_getaffinity(0))


def test_what_was_read_of_a_mapped_file_leaves_the_memory_and_can_be_read_again(tmp_path, mapped_mb):
    np.save(tmp_path / "a.npy", np.arange(4_000_000, dtype=np.float64))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="c")
    before = mapped_mb()
    assert mapped.sum() == 4_000_000 * 3_999_999 / 2 and mapped_mb() > before + 25
    release(mapped)
    assert mapped_mb() < before + 5 and mapped[-1] == 3_999_999


def test_an_array_that_is_in_memory_is_left_as_it_is():
    array = np.arange(9).reshape(3, 3)
    release(array)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
