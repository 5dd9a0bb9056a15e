"""Memory and CPU of real processes, and what is not known of them."""

import os
import subprocess
import sys
import time

from harness.telemetry import busy_cpu_ratio, tree
from harness.telemetry.processes import MIN_APART_S, MachineCpu, ProcessReader, cpu_ratio, environment

from .conftest import Start, process_with


def test_a_tree_is_the_process_and_all_below_it(started: Start) -> None:
    parent, child, _ = started()
    assert {process.pid for process in tree([parent])} == {parent, child}


def test_a_process_that_is_not_ours_and_one_that_has_ended_have_no_tree() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert list(tree([])) == []
    assert list(tree([ended.pid])) == []


def test_each_process_of_the_tree_is_read_with_its_memory(started: Start) -> None:
    parent, child, _ = started(held_bytes=200 * 2**20)
    seen = {process.pid: process for process in ProcessReader([parent]).read()}
    assert set(seen) == {parent, child}
    assert 200 * 2**20 < seen[child].rss_bytes < 400 * 2**20
    assert 0 < seen[parent].rss_bytes < 200 * 2**20
    assert all(process.name.startswith("python") for process in seen.values())


def test_a_share_of_the_cpu_is_what_was_used_since_the_look_before() -> None:
    """This process is read: before, between and after 0.3 s of work on one core."""
    now_s, before_s = 0.0, time.process_time()
    reader = ProcessReader([os.getpid()], clock=lambda: now_s)
    first = reader.read()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    now_s = 10.0
    second = reader.read()
    used_s = time.process_time() - before_s
    assert {process.cpu_ratio for process in first} == {None}
    [mine] = (process for process in second if process.pid == os.getpid())  # other tests may have left children
    assert 0.3 - 0.02 < mine.cpu_ratio * 10 < used_s + 0.02  # the kernel counts in steps of 0.01 s


def test_a_process_that_is_new_has_no_share_yet(started: Start) -> None:
    reader = ProcessReader([os.getpid()])
    reader.read()
    time.sleep(MIN_APART_S)
    parent, child, used_s = started(cpu_s=0.1)
    seen = {process.pid: process.cpu_ratio for process in reader.read()}
    assert used_s >= 0.1
    assert seen[os.getpid()] is not None
    assert seen[parent] is None
    assert seen[child] is None


def test_the_share_of_two_looks_at_one_moment_is_not_known() -> None:
    assert cpu_ratio((5.0, 1.0), (5.0 + MIN_APART_S / 2, 1.5)) is None
    assert cpu_ratio(None, (5.0, 1.0)) is None
    assert cpu_ratio((5.0, 1.0), (7.0, 2.0)) == 0.5


def test_the_machine_has_no_share_at_the_first_look_and_one_between_0_and_1_after() -> None:
    now_s = 0.0
    machine = MachineCpu(clock=lambda: now_s)
    assert machine.busy_ratio() is None
    until = time.process_time() + 3 * MIN_APART_S
    while time.process_time() < until:
        pass
    now_s = 1.0
    ratio = machine.busy_ratio()
    assert ratio is not None
    assert 0 < ratio <= 1  # this loop alone kept a core busy
    assert machine.busy_ratio() is None


def test_the_environment_of_a_process_is_what_it_was_started_with() -> None:
    with process_with({"A": "1"}) as pid:
        assert environment([pid]) == {"A": "1"}
    assert environment([pid]) is None
    assert environment([]) is None


def test_a_stranger_that_keeps_a_core_busy_is_seen() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        ratio = busy_cpu_ratio(over_s=0.5)
        stranger.kill()
    assert 0.5 / (os.cpu_count() or 1) < ratio <= 1
