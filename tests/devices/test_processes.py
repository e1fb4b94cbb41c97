"""One run in several processes: the same results, and one answer to whatever goes wrong."""

import importlib.util
import json
import random
import shutil
import signal
import socket

import jax
import numpy as np
import pytest

from dpt_jax.cli.main import main
from dpt_jax.devices import agreement, launch, partitioning
from dpt_jax.errors import InputError
from tests.support import kills, meshes, processes, runs

# Nothing here has a second process by itself.
CLUSTER_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in CLUSTER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def two_processes(backbone, tmp_path_factory):
    """A run of two processes with 4 devices each, and how its processes ended."""
    folder = tmp_path_factory.mktemp("two_processes")
    return folder, processes.finish(start(folder, backbone))


def start(folder, backbone, **macros):
    argv = runs.arguments(folder, backbone, **{"MESH": (2, 2, 2)} | meshes.MACROS | macros)
    return processes.start_all([argv, argv], devices=4, heartbeat_timeout=10)


@pytest.mark.slow
def test_two_processes_train_as_one_device_does(one_device, two_processes):
    folder, ends = two_processes
    assert [status for status, _, _ in ends] == [0, 0], ends
    runs.same_results(folder, one_device, meshes.STEPS)
    # Written once, by the first process, which alone talks.
    for name in ("predictions", "numpy_checkpoints"):
        ours, theirs = (
            sorted(str(p.relative_to(run)) for p in (run / name).rglob("*"))
            for run in (folder, one_device)
        )
        assert ours == theirs
    (_, first, _), (_, second, err) = ends
    summary = json.loads(first.splitlines()[-1])
    assert summary["last_step"] == meshes.STEPS
    assert "{" not in second and "step" not in err


@pytest.fixture(scope="module")
def killed(backbone, tmp_path_factory):
    """A run of which a process was killed, and what was found then."""
    folder = tmp_path_factory.mktemp("killed")
    rng = random.Random()
    found = kills.kill(lambda: start(folder, backbone), folder, rng.randrange(3, 8), rng)
    return folder, found


@pytest.mark.slow
def test_when_a_process_is_killed_the_other_says_so_and_ends_and_no_file_is_half_written(killed):
    folder, found = killed
    assert found["killed"], found
    assert found["broken"] == []
    # The runtime, which stops the others by SIGABRT, may have been faster when process 0 was it.
    assert found["survivor"] in ((1, -signal.SIGABRT) if found["victim"] == 0 else (1,)), found
    if found["survivor"] == 1:
        (said,) = found["said"]
        assert f"process {found['victim']} of 2" in said and not found["stack_trace"]
        assert f"goes on from {folder / 'checkpoints'}" in said


@pytest.mark.slow
def test_after_a_kill_the_same_command_reaches_the_same_prompt(
    backbone, killed, two_processes, tmp_path
):
    unbroken, _ = two_processes
    folder, step = tmp_path / "run", killed[1]["saved"]
    shutil.copytree(killed[0], folder)
    ends = processes.finish(start(folder, backbone))
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert f"continuing from step {step}" in ends[0][2] or step == 0
    np.testing.assert_allclose(
        runs.prompt(folder, meshes.STEPS), runs.prompt(unbroken, meshes.STEPS), rtol=0, atol=1e-6
    )
    assert runs.metrics(folder) == runs.metrics(unbroken)
    assert kills.broken(folder) == kills.unfinished(folder) == []


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices_in_the_same_order(backbone, killed, one_device, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(killed[0], folder)  # 2 processes of 4 devices,
    macros = meshes.MACROS | {"TRAIN_STEPS": 17}
    argv = runs.arguments(folder, backbone, MESH=(1, 1, 8), **macros)
    ((status, _, err),) = processes.finish([processes.start(argv, devices=8)])  # one of 8,
    assert status == 0, err
    assert main(runs.arguments(folder, backbone, **meshes.MACROS)) == 0  # and one device.
    found, expected = runs.metrics(folder), runs.metrics(one_device)
    # The run of 17 steps evaluated at its end.
    found = [line for line in found if line["split"] == "train" or line["step"] == meshes.STEPS]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-5)
    np.testing.assert_allclose(
        runs.prompt(folder, meshes.STEPS), runs.prompt(one_device, meshes.STEPS), atol=1e-4
    )


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(backbone, tmp_path):
    # Steps enough for the signal to come in time.
    group = start(tmp_path, backbone, TRAIN_STEPS=2000, EVAL_PERIOD=0)
    kills.wait_for_step(group, tmp_path, 4)
    group[random.randrange(2)].terminate()
    ends = processes.finish(group)
    assert [status for status, _, _ in ends] == [143, 143], ends
    stopped = kills.latest(tmp_path)
    for _, _, err in ends:
        assert f"stopped by SIGTERM after saving step {stopped}" in err
    assert kills.broken(tmp_path) == kills.unfinished(tmp_path) == []


@pytest.mark.slow
def test_processes_with_other_settings_or_files_stop_before_anything_is_written(backbone, tmp_path):
    # As Slurm starts them, so that no flag is needed.
    def start_by_slurm(*argvs):
        job = str(random.randrange(4096))
        return [
            processes.start(
                argv,
                1,
                SLURM_JOB_ID=job,
                SLURM_STEP_NODELIST="localhost",
                SLURM_NTASKS="2",
                SLURM_STEP_NUM_TASKS="2",
                SLURM_PROCID=str(i),
                SLURM_LOCALID=str(i),
            )
            for i, argv in enumerate(argvs)
        ]

    folder = tmp_path / "run"
    good = runs.arguments(folder, backbone)
    other = runs.arguments(folder, backbone, BATCH_SIZE=8, **{"optax.adamw.weight_decay": 0.5})
    lacking = runs.arguments(folder, tmp_path / "nowhere")
    lacking[2] = good[2]  # The gin file is there, the weights are not.
    settings, files = start_by_slurm(good, other), start_by_slurm(good, lacking)
    for status, out, err in processes.finish(settings):
        assert status == 2 and "{" not in out
        assert "BATCH_SIZE: process 0 has 16, process 1 8" in err
        assert "optax.adamw.weight_decay: process 0 has 1e-05, process 1 0.5" in err
        assert err.count("error: ") == 1 and "Traceback" not in err
    (_, _, here), (_, _, there) = ends = processes.finish(files)
    assert [status for status, _, _ in ends] == [2, 2], ends
    assert "INITIAL_CHECKPOINT_PATH" in here and "INITIAL_CHECKPOINT_PATH" in there
    assert not folder.exists()


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_is_named(backbone, tmp_path):
    address = f"localhost:{processes.free_port()}"
    flags = [f"--coordinator_address={address}", "--num_processes=2", "--initialization_timeout=2"]
    argv = [*runs.arguments(tmp_path / "run", backbone), *flags]
    for status, _, err in processes.finish(
        [processes.start([*argv, "--process_id=1"], 1)]
    ) + processes.finish([processes.start([*argv, "--process_id=0"], 1)]):
        assert status == 2
        assert f"could not meet the others at {address} within 2 seconds" in err
        assert "--coordinator_address" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_processes": 2},
            "--num_processes given, but not --coordinator_address, --process_id",
        ),
        ({"coordinator_address": "host:1"}, "not --num_processes, --process_id"),
        (
            {"coordinator_address": "host", "num_processes": 2, "process_id": 0},
            "'host'; it must be HOST:PORT",
        ),
        (
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
            "--process_id is 2; with --num_processes=2 it goes from 0 to 1",
        ),
        ({"num_processes": 0}, "--num_processes is 0"),
        ({"initialization_timeout": 0}, "--initialization_timeout is 0"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        launch.start(launch.Launch(**values))


def test_a_coordinators_port_that_is_in_use_is_refused():
    with socket.create_server(("", 0)) as other:
        address = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=f"{address}, but process 0 cannot listen"):
            launch.start(launch.Launch(address, num_processes=2, process_id=0))


def test_flags_come_before_the_environment(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "there:2")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    found = launch.Launch(process_id=1).with_environment()
    assert (found.coordinator_address, found.num_processes) == ("there:2", 4)
    assert found.process_id == 1
    monkeypatch.setenv("JAX_PROCESS_ID", "second")
    with pytest.raises(InputError, match="JAX_PROCESS_ID is 'second'"):
        launch.start()


@pytest.mark.filterwarnings("ignore:Kubernetes environment")
def test_an_indexed_kubernetes_job_without_jaxs_package_is_told_what_to_install(monkeypatch):
    if importlib.util.find_spec("kubernetes"):
        pytest.skip("the package 'kubernetes' is installed")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(InputError) as error:
        launch.start()
    assert "package 'kubernetes': install it" in str(error.value)
    assert "--num_processes=1 to run alone" in str(error.value)


@pytest.mark.parametrize(
    ("visible", "tasks", "expected"),
    [
        ("0,1,2,3", "1(x2)", [0, 1, 2, 3]),  # One task per node takes all of its GPUs;
        ("0,1", "1", [0, 1]),
        ("3", "8(x2)", [0]),  # a task that sees one takes it, whatever its number.
        ("0,1,2,3", "4(x2)", None),  # Otherwise JAX takes the one of the task's number,
        ("", "1(x2)", None),  # or there is none.
        (None, "8", None),
    ],
)
def test_a_slurm_task_takes_the_gpus_that_are_its_own(monkeypatch, visible, tasks, expected):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    asked = {}

    def initialize(**given):
        asked.update(given)
        raise ValueError("as far as this test goes")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(InputError, match="as far as this test goes"):
        launch.start()
    assert asked["local_device_ids"] == expected


def test_one_process_starts_nothing(monkeypatch):
    launch.start()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    launch.start(launch.Launch(num_processes=1))
    # A shell inside an allocation of eight tasks.
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    launch.start()
    assert not jax.distributed.is_initialized()
    assert agreement.is_first() and agreement.process_count() == 1
    assert agreement.broadcast_from_first({"a": 1}) == {"a": 1}
    with pytest.raises(InputError, match="^as it is$"), agreement.raise_everywhere():
        raise InputError("as it is")


def test_a_process_takes_the_rows_of_its_devices():
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    assert partitioning.process_rows(mesh, 6).tolist() == [0, 1, 2, 3, 4, 5]

    class Device:
        def __init__(self, process):
            self.process_index = process

    def rows(processes_of_devices):
        class SomeMesh:
            devices = np.vectorize(Device, otypes=[object])(np.asarray(processes_of_devices))
            shape = dict(zip(partitioning.MESH_AXES, devices.shape, strict=True))

        return partitioning.process_rows(SomeMesh, 8).tolist()

    # This process is number 0. Axes: data, fsdp, model.
    assert rows([[[0, 0]], [[1, 1]]]) == [0, 1, 2, 3]
    assert rows([[[0], [1]], [[1], [0]]]) == [0, 1, 6, 7]
    assert rows([[[0, 1]], [[0, 1]]]) == [0, 1, 2, 3, 4, 5, 6, 7]
